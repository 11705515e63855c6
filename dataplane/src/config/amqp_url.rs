//! The address of a RabbitMQ broker as one URL: read by the transport itself, shown without its password.

use asya_transport::rabbitmq::{ConfigError, RabbitMqConfig};

/// What an AMQP URL says.
#[derive(Clone, Debug)]
pub(super) struct AmqpUrl {
    pub(super) config: RabbitMqConfig,
    /// It names a user; else the variables do.
    pub(super) names_user: bool,
    /// It names a virtual host; else the variable does.
    pub(super) names_vhost: bool,
}

/// Reads a URL. Its problems never quote what may be a password.
pub(super) fn parse(text: &str) -> Result<AmqpUrl, String> {
    let config = RabbitMqConfig::from_url(text).map_err(|error| match error {
        // What stands there may be a password whose host was forgotten.
        ConfigError::Port(_) => "the port is not a number from 1 to 65535".to_owned(),
        error => error.to_string(),
    })?;
    let (authority, path) = split(text);
    Ok(AmqpUrl { config, names_user: authority.contains('@'), names_vhost: !path.is_empty() })
}

/// The text with its password hidden, or nothing of it where it cannot be told which part is the password.
pub(super) fn redacted(text: &str) -> String {
    const HIDDEN: &str = "(not shown)";
    let (authority, _) = split(text);
    let Some((before, after)) = text.split_once(authority) else { return HIDDEN.to_owned() };
    match authority.rsplit_once('@') {
        Some((login, host)) => match login.split_once(':') {
            Some((user, _)) => format!("{before}{user}:***@{host}{after}"),
            None => text.to_owned(),
        },
        // Without a host, what looks like a port may be a password; and an @ behind the authority may end a password
        // that has a slash in it.
        None if text.contains('@') => HIDDEN.to_owned(),
        None => match authority.rsplit_once(':') {
            Some((_, port)) if !port.bytes().all(|byte| byte.is_ascii_digit()) => HIDDEN.to_owned(),
            _ => text.to_owned(),
        },
    }
}

/// Authority and path.
fn split(text: &str) -> (&str, &str) {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    rest.split_once('/').unwrap_or((rest, ""))
}
