//! Why a call, or one entry of it, did not succeed, as far as something different follows from it.
//!
//! Takes an error of the SDK, gives a [`Trouble`]. Pure.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::BatchResultErrorEntry;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no such queue.
    NoQueue,
    /// The receipt stands for nothing any more: the message is deleted, or somebody else's.
    Void(String),
    /// Declined for now; nothing was done.
    Later(String),
    /// Larger than the queue takes: the limit in bytes of body and attributes, where it was told.
    TooLarge(Option<u64>),
    /// The batch is larger than SQS takes: the limit, where it was told. Nothing was done.
    BatchTooLarge(Option<u64>),
    /// No answer, or none that can be read: whether it was done is not known.
    Unreachable(String),
    /// Failed inside of SQS: whether it was done is not known.
    Unclear(String),
    /// There are no credentials, or they are refused.
    Credentials(String),
    /// Not permitted.
    Denied(String),
    /// Wrong in itself: asking again is useless.
    Refused(String),
}

/// What became of one entry of a batch.
pub(super) type Answer = Result<(), Trouble>;

impl Trouble {
    /// Whether SQS has answered at all.
    pub(super) const fn is_answer(&self) -> bool {
        !matches!(self, Self::Unreachable(_))
    }

    /// Whether asking again may help.
    pub(super) const fn may_pass(&self) -> bool {
        !matches!(self, Self::NoQueue | Self::Void(_) | Self::TooLarge(_) | Self::BatchTooLarge(_) | Self::Refused(_))
    }

    /// One word from a service's code.
    fn from_code(code: &str, status: u16, text: &str) -> Self {
        // "AWS.SimpleQueueService.NonExistentQueue" and "com.amazonaws.sqs#QueueDoesNotExist" are the same.
        let word = code.rsplit(['.', '#']).next().unwrap_or(code);
        let why = format!("{word}: {text}");
        match word {
            "QueueDoesNotExist" | "NonExistentQueue" => Self::NoQueue,
            "ReceiptHandleIsInvalid" | "MessageNotInflight" => Self::Void(why),
            "InvalidParameterValue" | "InvalidAttributeValue" if text.contains("ReceiptHandle") => Self::Void(why),
            "InvalidParameterValue" | "InvalidAttributeValue" if text.contains("shorter than") => {
                Self::TooLarge(first_number(text))
            }
            // ElasticMQ's word for either.
            "InvalidParameterValue" | "InvalidAttributeValue" if text.contains("MessageTooLong") => {
                Self::BatchTooLarge(None)
            }
            "BatchRequestTooLong" => Self::BatchTooLarge(first_number(text)),
            "RequestThrottled"
            | "ThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "SlowDown"
            | "KmsThrottled"
            | "OverLimit"
            | "ServiceUnavailable"
            | "QueueDeletedRecently"
            | "ExpiredToken"
            | "ExpiredTokenException" => Self::Later(why),
            "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"
            | "AuthFailure" => Self::Credentials(why),
            "AccessDenied" | "AccessDeniedException" | "KmsAccessDenied" => Self::Denied(why),
            _ if matches!(status, 429 | 503) => Self::Later(why),
            _ if status >= 500 => Self::Unclear(why),
            _ => Self::Refused(why),
        }
    }

    /// Of one entry of a batch.
    pub(super) fn of_entry(entry: &BatchResultErrorEntry) -> Self {
        let status = if entry.sender_fault() { 400 } else { 500 };
        Self::from_code(entry.code(), status, entry.message().unwrap_or_default())
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoQueue => f.write_str("there is no such queue"),
            Self::TooLarge(_) => f.write_str("larger than the queue takes"),
            Self::BatchTooLarge(_) => f.write_str("more at once than SQS takes"),
            Self::Void(why)
            | Self::Later(why)
            | Self::Unreachable(why)
            | Self::Unclear(why)
            | Self::Credentials(why)
            | Self::Denied(why)
            | Self::Refused(why) => f.write_str(why),
        }
    }
}

impl<E> From<SdkError<E, HttpResponse>> for Trouble
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if let SdkError::ServiceError(service) = &error {
            let meta = service.err().meta();
            let text = meta.message().unwrap_or_default();
            return Self::from_code(meta.code().unwrap_or_default(), service.raw().status().as_u16(), text);
        }
        let why = DisplayErrorContext(&error).to_string();
        match credentials_error(&error) {
            Some(CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)) => {
                Self::Credentials(why)
            }
            // Whoever gives them out may be back soon.
            Some(_) => Self::Unclear(why),
            None if matches!(error, SdkError::ConstructionFailure(_)) => Self::Refused(why),
            None => Self::Unreachable(why),
        }
    }
}

/// The credentials' own error within an error, if they are to blame.
fn credentials_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CredentialsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn first_number(text: &str) -> Option<u64> {
    let digits = |c: char| c.is_ascii_digit();
    text.split(|c| !digits(c)).find(|run| !run.is_empty()).and_then(|run| run.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str, status: u16, text: &str) -> Trouble {
        Trouble::from_code(code, status, text)
    }

    #[test]
    fn both_protocols_codes_are_known() {
        assert_eq!(of("AWS.SimpleQueueService.NonExistentQueue", 400, ""), Trouble::NoQueue);
        assert_eq!(of("com.amazonaws.sqs#QueueDoesNotExist", 400, ""), Trouble::NoQueue);
        assert!(matches!(of("AWS.SimpleQueueService.QueueDeletedRecently", 400, ""), Trouble::Later(_)));
    }

    #[test]
    fn an_expired_receipt_is_void() {
        let text = "Value x for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.";
        assert!(matches!(of("InvalidParameterValue", 400, text), Trouble::Void(_)));
    }

    #[test]
    fn a_limit_is_read_where_it_is_told() {
        let text = "One or more parameters are invalid. Reason: Message must be shorter than 262144 bytes.";
        assert_eq!(of("InvalidParameterValue", 400, text), Trouble::TooLarge(Some(262_144)));
        let text = "Batch requests cannot be longer than 1048576 bytes.";
        assert_eq!(of("AWS.SimpleQueueService.BatchRequestTooLong", 400, text), Trouble::BatchTooLarge(Some(1 << 20)));
    }

    #[test]
    fn what_is_unknown_goes_by_its_status() {
        assert!(matches!(of("Surprise", 503, ""), Trouble::Later(_)));
        assert!(matches!(of("InternalError", 500, ""), Trouble::Unclear(_)));
        assert!(matches!(of("", 400, ""), Trouble::Refused(_)));
    }
}
