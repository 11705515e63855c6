//! The address of a RabbitMQ broker as one URL.

use percent_encoding::percent_decode_str;
use url::Url;

use super::settings::Secret;

/// What an AMQP URL says; what it leaves out is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AmqpUrl {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) vhost: Option<String>,
    pub(super) query: String,
}

/// Reads a URL. Its problems never quote it: it may hold a password.
pub(super) fn parse(text: &str) -> Result<AmqpUrl, String> {
    let url = Url::parse(text).map_err(|e| format!("not a URL: {e}"))?;
    let tls = match url.scheme() {
        "amqp" => false,
        "amqps" => true,
        other => return Err(format!("the scheme is {other}, not amqp or amqps")),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| "no host".to_owned())?;
    let decoded = |part: &str, name: &str| {
        let text = percent_decode_str(part).decode_utf8().map_err(|_| format!("the {name} is not UTF-8"))?;
        Ok::<_, String>(text.into_owned())
    };
    Ok(AmqpUrl {
        tls,
        host: decoded(host.trim_start_matches('[').trim_end_matches(']'), "host")?,
        port: url.port(),
        username: Some(url.username()).filter(|u| !u.is_empty()).map(|u| decoded(u, "user name")).transpose()?,
        password: url.password().map(|p| decoded(p, "password")).transpose()?.map(Secret::new),
        // The AMQP grammar reads "host/" as the virtual host with an empty name, which nobody has; like the clients
        // that our users come from, we read it as the default.
        vhost: url
            .path()
            .strip_prefix('/')
            .filter(|path| !path.is_empty())
            .map(|path| decoded(path, "virtual host"))
            .transpose()?,
        query: url.query().unwrap_or_default().to_owned(),
    })
}

/// The text with its password hidden, or nothing of it where it cannot be told which part is the password.
pub(super) fn redacted(text: &str) -> String {
    match Url::parse(text) {
        Ok(mut url) if url.password().is_some() => match url.set_password(Some("***")) {
            Ok(()) => url.into(),
            Err(()) => "(not shown)".to_owned(),
        },
        Ok(url) if !text.contains('@') => url.into(),
        _ => "(not shown)".to_owned(),
    }
}
