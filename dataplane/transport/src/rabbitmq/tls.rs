//! TLS towards the broker.
//!
//! Takes a [`TlsConfig`]; gives a connector for one connection, so that renewed files are seen at the next reconnect.
//! Blocks on reading files, so it runs on tokio's blocking pool; a file that cannot be used is a [`TlsError`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::config::TlsConfig;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or holds something else.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// Nothing to trust.
    #[error("no certificate authority found{0}: name one with cacertfile")]
    NoRoots(String),
    /// What TLS itself refuses.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// A host that no certificate can carry.
    #[error("{0:?} is not a name that a certificate can carry: set server_name_indication")]
    Name(String, #[source] InvalidDnsNameError),
}

/// The name to ask for, and how.
pub(crate) fn connector(config: &TlsConfig, host: &str) -> Result<(ServerName<'static>, TlsConnector), TlsError> {
    let name = config.server_name.as_deref().unwrap_or(host);
    let server = ServerName::try_from(name.to_owned()).map_err(|e| TlsError::Name(name.to_owned(), e))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(config)?);
    let config = match &config.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| file(key, source))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    Ok((server, TlsConnector::from(Arc::new(config))))
}

fn roots(config: &TlsConfig) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &config.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate)?;
        }
        if roots.is_empty() {
            return Err(TlsError::NoRoots(format!(" in {}", path.display())));
        }
        return Ok(roots);
    }
    // One of the system's many being unreadable is no reason to trust none of the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoRoots(" on this system".to_owned()));
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|source| file(path, source))
}

fn file(path: &Path, source: pem::Error) -> TlsError {
    TlsError::File { path: path.to_owned(), source }
}
