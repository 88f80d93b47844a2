//! TLS as libpq's `sslmode` means it, on rustls.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::conninfo::{Conninfo, RootCerts, SslMode};

/// Why TLS cannot be set up as the conninfo demands.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the certificates of sslrootcert={path}: {reason}")]
    RootCerts { path: PathBuf, reason: String },
    #[error(
        "no root certificates found in the operating system; name the server's CA with sslrootcert (Debian: install ca-certificates)"
    )]
    NoSystemRoots,
    #[error("the server offers no TLS, but sslmode demands it (set ssl = on in postgresql.conf, or sslmode=prefer)")]
    NotOffered,
    #[error("{0:?} is not a host name that a certificate can name")]
    ServerName(String),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The rustls configuration for a conninfo. Cheap unless certificates are to be checked.
pub(super) fn client_config(conninfo: &Conninfo) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = ServerVerifier { checks: Checks::of(conninfo)?, provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// What of a server's certificate is checked.
#[derive(Debug)]
enum Checks {
    Nothing,
    Chain { roots: Roots, name: bool },
}

#[derive(Debug)]
struct Roots {
    store: RootCertStore,
    /// A self-signed server certificate that is given as its own root. OpenSSL accepts it as a leaf although it is a
    /// CA, webpki does not; byte equality proves as much.
    pinned: Vec<CertificateDer<'static>>,
}

impl Checks {
    fn of(conninfo: &Conninfo) -> Result<Checks, TlsError> {
        let name = match (conninfo.effective_ssl_mode(), &conninfo.ssl_root_certs) {
            (SslMode::Disable | SslMode::Prefer, _) | (SslMode::Require, None) => return Ok(Checks::Nothing),
            // "If a root CA file exists, the behavior of sslmode=require will be the same as that of verify-ca."
            (SslMode::Require | SslMode::VerifyCa, _) => false,
            (SslMode::VerifyFull, _) => true,
        };
        let roots = match &conninfo.ssl_root_certs {
            Some(RootCerts::File(path)) => file_roots(path)?,
            Some(RootCerts::System) | None => system_roots()?,
        };
        Ok(Checks::Chain { roots, name })
    }
}

fn file_roots(path: &PathBuf) -> Result<Roots, TlsError> {
    let unreadable = |reason: String| TlsError::RootCerts { path: path.clone(), reason };
    let pinned = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(error.to_string()))?;
    if pinned.is_empty() {
        return Err(unreadable("it has no certificate".to_owned()));
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(pinned.iter().cloned());
    Ok(Roots { store, pinned })
}

fn system_roots() -> Result<Roots, TlsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(TlsError::NoSystemRoots);
    }
    Ok(Roots { store, pinned: Vec::new() })
}

/// rustls' own verifier always checks the name; libpq's modes check less.
#[derive(Debug)]
struct ServerVerifier {
    checks: Checks,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Checks::Chain { roots, name } = &self.checks else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !roots.pinned.iter().any(|pinned| pinned == end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, &roots.store, intermediates, now, algorithms)?;
        }
        if *name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `tls-server-end-point` channel binding (RFC 5929, 4.1): the certificate's hash, by the hash of its signature.
///
/// None where the signature's hash is not known: the login then goes without channel binding.
pub(super) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (sha256, sha384) = hashes()?;
    let hash = match signature_algorithm(certificate)? {
        // MD5 and SHA-1 "are replaced by SHA-256"; sha256WithRSAEncryption; ecdsa-with-SHA256.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04 | 0x05 | 0x0b] => sha256,
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01] | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02] => sha256,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c] | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03] => {
            sha384
        }
        _ => return None,
    };
    Some(hash.hash(certificate).as_ref().to_vec())
}

/// The hashes that rustls has anyway, by way of the cipher suites that use them.
fn hashes() -> Option<(&'static dyn rustls::crypto::hash::Hash, &'static dyn rustls::crypto::hash::Hash)> {
    let sha256 = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?.common.hash_provider;
    let sha384 = aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384.tls13()?.common.hash_provider;
    Some((sha256, sha384))
}

/// The OID in `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, .. }, .. }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (certificate, _) = der_value(certificate, SEQUENCE)?;
    let (_tbs_certificate, rest) = der_value(certificate, SEQUENCE)?;
    let (algorithm, _signature) = der_value(rest, SEQUENCE)?;
    der_value(algorithm, OBJECT_IDENTIFIER).map(|(oid, _parameters)| oid)
}

/// A DER value with the given tag, and what follows it.
fn der_value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // Up to four bytes of length: a certificate of more than 4 GiB is none.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        match length {
            0..=0x7f => [&[tag, length as u8], content].concat(),
            _ => [&[tag, 0x82, (length >> 8) as u8, length as u8], content].concat(),
        }
    }

    #[test]
    fn the_signature_algorithm_is_found_behind_the_signed_part() {
        let oid = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
        let algorithm = der(0x30, &[der(0x06, &oid), der(0x05, &[])].concat());
        let certificate = der(0x30, &[der(0x30, &[1; 300]), algorithm, der(0x03, &[0; 20])].concat());
        assert_eq!(signature_algorithm(&certificate), Some(&oid[..]));
        for end in 0..certificate.len() {
            signature_algorithm(&certificate[..end]);
        }
        assert_eq!(server_end_point(&certificate.clone().into()).map(|hash| hash.len()), Some(32));
    }

    #[test]
    fn the_modes_check_what_libpq_checks() {
        let checks = |text: &str| Checks::of(&Conninfo::parse(text).unwrap());
        assert!(matches!(checks("user=u sslmode=prefer"), Ok(Checks::Nothing)));
        assert!(matches!(checks("user=u sslmode=require"), Ok(Checks::Nothing)));
        let error = checks("user=u sslmode=require sslrootcert=/nonexistent.pem").unwrap_err();
        assert!(error.to_string().contains("/nonexistent.pem"));
    }
}
