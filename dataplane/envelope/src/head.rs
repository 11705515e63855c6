//! What a message says apart from its payload. Plain values, made by the decoders or by callers; [`Head::check`] holds
//! the rules that both encodings share.

use crate::{DecodeError, Headers, error::excerpt, names};

/// Most unknown fields that are kept: they are compared with each other, so their number must be small.
pub const MAX_EXTENSIONS: usize = 64;

/// The way of a message: where it was, where it is, where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Actors that are done with it, oldest first.
    pub prev: Vec<String>,
    /// The actor that must process it now; empty when the route is finished.
    pub curr: String,
    /// Actors to come, nearest first.
    pub next: Vec<String>,
}

impl Route {
    /// How many actors are done with the message: with its id, what tells two deliveries apart.
    pub fn hop(&self) -> u32 {
        u32::try_from(self.prev.len()).unwrap_or(u32::MAX)
    }

    /// The route after the current actor is done. A finished route stays as it is.
    #[must_use]
    pub fn shifted(&self) -> Self {
        if self.curr.is_empty() {
            return self.clone();
        }
        let mut prev = Vec::with_capacity(self.prev.len() + 1);
        prev.extend_from_slice(&self.prev);
        prev.push(self.curr.clone());
        let (curr, next) = match self.next.split_first() {
            Some((first, rest)) => (first.clone(), rest.to_vec()),
            None => (String::new(), Vec::new()),
        };
        Self { prev, curr, next }
    }
}

/// How the route is written in JSON. A message is answered in the shape in which it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RouteShape {
    /// `{prev, curr, next}`.
    #[default]
    Curr,
    /// The older `{actors, current}`.
    Actors,
}

/// What a message is going through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waiting in a queue.
    Pending,
    /// Being handled.
    Processing,
    /// Waiting to be handled again.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended in an error.
    Failed,
    /// Waiting for a person.
    Paused,
    /// Ended on request.
    Canceled,
}

impl Phase {
    /// All phases; the position of each is its number in a native head.
    pub(crate) const ALL: [Self; 7] =
        [Self::Pending, Self::Processing, Self::Retrying, Self::Succeeded, Self::Failed, Self::Paused, Self::Canceled];

    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Paused => "paused",
            Self::Canceled => "canceled",
        }
    }

    /// Reads the name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}

/// An error of a handler, or of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorInfo {
    /// For people.
    pub message: String,
    /// Qualified class name (`type` in JSON).
    pub error_type: String,
    /// Ancestors of that class, nearest first.
    pub mro: Vec<String>,
    /// As Python prints it.
    pub traceback: Option<String>,
}

/// How far a message is, and how it is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is going through.
    pub phase: Phase,
    /// Why, one word (see [`names::reason`]).
    pub reason: Option<String>,
    /// The actor that wrote this.
    pub actor: String,
    /// Which run at that actor this is, from 1.
    pub attempt: u32,
    /// Most runs that its policy allows; 0 until one applied.
    pub max_attempts: u32,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC.
    pub updated_at: String,
    /// RFC 3339, UTC: when the whole way must be done.
    pub deadline_at: Option<String>,
    /// What went wrong.
    pub error: Option<ErrorInfo>,
}

/// Everything that a message says apart from its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Names the message. Empty only for a failure message about a body that had no id to tell.
    pub id: String,
    /// The message from which this one was made, for children other than the first.
    pub parent_id: Option<String>,
    /// The namespace that it is meant for, because `asya-a-b-c` could be two queues.
    pub namespace: Option<String>,
    /// Its way.
    pub route: Route,
    /// How that way is written in JSON.
    pub shape: RouteShape,
    /// What users and tracing attach.
    pub headers: Headers,
    /// How it is doing; absent on messages that no sidecar has seen yet.
    pub status: Option<Status>,
    /// Fields that this version does not know: name and raw JSON, kept and forwarded in order. Unknown fields of the
    /// route and of the status are here as `route.NAME` and `status.NAME`.
    pub extensions: Vec<(String, String)>,
}

impl Head {
    /// Extension names that begin so are fields of the route.
    pub(crate) const ROUTE_PREFIX: &'static str = "route.";
    /// Extension names that begin so are fields of the status.
    pub(crate) const STATUS_PREFIX: &'static str = "status.";
    /// Names of the fields that are not extensions.
    pub(crate) const FIELDS: [&'static str; 8] =
        ["id", "parent_id", "namespace", "route", "headers", "payload", "status", "blobs"];
    /// The same, inside the route.
    pub(crate) const ROUTE_FIELDS: [&'static str; 5] = ["prev", "curr", "next", "actors", "current"];
    /// The same, inside the status.
    pub(crate) const STATUS_FIELDS: [&'static str; 9] =
        ["phase", "reason", "actor", "attempt", "max_attempts", "created_at", "updated_at", "deadline_at", "error"];

    /// A message that nobody has handled yet.
    pub fn new(id: impl Into<String>, route: Route) -> Self {
        Self { id: id.into(), route, ..Self::default() }
    }

    /// The rules that hold whatever the encoding was. What passes can be written in either encoding and read back.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.check_route()?;
        if self.id.is_empty() && !self.may_be_nameless() {
            return Err(DecodeError::EmptyId);
        }
        self.check_extensions()
    }

    /// Whether this is a failure message about a body that could not be read: at the failure sink, from nowhere.
    fn may_be_nameless(&self) -> bool {
        let Route { prev, curr, next } = &self.route;
        let failed = self.status.as_ref().is_some_and(|status| status.phase == Phase::Failed);
        prev.is_empty() && next.is_empty() && (failed || names::canonical_actor(curr) == names::SUMP)
    }

    fn check_route(&self) -> Result<(), DecodeError> {
        let Route { prev, curr, next } = &self.route;
        let has_empty = |list: &[String]| list.iter().any(String::is_empty);
        match self.shape {
            RouteShape::Curr if has_empty(prev) => Err(DecodeError::EmptyActor { field: "route.prev" }),
            RouteShape::Curr if has_empty(next) => Err(DecodeError::EmptyActor { field: "route.next" }),
            RouteShape::Actors if has_empty(prev) || has_empty(next) => {
                Err(DecodeError::EmptyActor { field: "route.actors" })
            }
            RouteShape::Actors if prev.is_empty() && curr.is_empty() && next.is_empty() => Err(DecodeError::EmptyRoute),
            _ if curr.is_empty() && !next.is_empty() => Err(DecodeError::RouteGap),
            _ => Ok(()),
        }
    }

    fn check_extensions(&self) -> Result<(), DecodeError> {
        if self.extensions.len() > MAX_EXTENSIONS {
            return Err(DecodeError::TooManyExtensions);
        }
        for (index, (name, _)) in self.extensions.iter().enumerate() {
            let reserved = if let Some(inner) = name.strip_prefix(Self::ROUTE_PREFIX) {
                Self::ROUTE_FIELDS.contains(&inner)
            } else if let Some(inner) = name.strip_prefix(Self::STATUS_PREFIX) {
                Self::STATUS_FIELDS.contains(&inner)
            } else {
                Self::FIELDS.contains(&name.as_str())
            };
            if reserved {
                return Err(DecodeError::ReservedField { field: excerpt(name) });
            }
            if self.extensions.iter().take(index).any(|(earlier, _)| earlier == name) {
                return Err(DecodeError::DuplicateField { field: excerpt(name) });
            }
        }
        Ok(())
    }
}
