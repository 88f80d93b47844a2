//! Tokens. What verifies was signed: an HMAC is made again and compared, and of the other kinds the signed part is one of
//! ours. The claims are those of the signed part, and a token that is good is good when it is asked about again.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use walcast::authz::{SignedTokens, Verifier, VerifierConfig};

const SECRET: &str = "a secret of the fuzz target, which opens nothing at all";

/// 2030-01-01; tokens of the corpus live for another seventy years.
const NOW: u64 = 1_893_456_000;
const EXP: u64 = 4_102_444_800;

struct World {
    verifier: Verifier,
    metrics: SignedTokens,
    /// `header.payload` of the tokens that were signed with private keys.
    signed: HashSet<String>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let mut keys = Vec::new();
    let mut signed = HashSet::new();
    for (algorithm, key) in private_keys() {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).expect("a key")).expect("JSON");
        jwk["kid"] = json!(format!("{algorithm:?}"));
        keys.push(jwk);
        let token = token(algorithm, &key);
        signed.insert(token.rsplit_once('.').expect("a token").0.to_owned());
    }
    let config = VerifierConfig {
        secret: Some(SECRET.into()),
        jwks: Some(json!({ "keys": keys }).to_string()),
        ..VerifierConfig::default()
    };
    let (verifier, _) = Verifier::new(&config).expect("a verifier");
    let metrics = SignedTokens::new(SECRET, [String::new()]).expect("a secret");
    World { verifier, metrics, signed }
});

fn private_keys() -> Vec<(Algorithm, EncodingKey)> {
    let pem = |bytes: &'static [u8]| bytes;
    let rsa = pem(include_bytes!("../../../src/authz/testdata/rsa.pem"));
    let ec = pem(include_bytes!("../../../src/authz/testdata/ec.pem"));
    let ed = pem(include_bytes!("../../../src/authz/testdata/ed.pem"));
    vec![
        (Algorithm::RS256, EncodingKey::from_rsa_pem(rsa).expect("a key")),
        (Algorithm::ES256, EncodingKey::from_ec_pem(ec).expect("a key")),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(ed).expect("a key")),
    ]
}

fn token(algorithm: Algorithm, key: &EncodingKey) -> String {
    let header = Header { kid: Some(format!("{algorithm:?}")), ..Header::new(algorithm) };
    let claims = json!({ "role": "authenticated", "exp": EXP, "sub": "u1", "app_metadata": { "teams": ["a"] } });
    jsonwebtoken::encode(&header, &claims, key).expect("a token")
}

/// Of every kind that is taken, for the corpus.
pub fn tokens() -> Vec<(String, String)> {
    let hmac = |algorithm| (algorithm, EncodingKey::from_secret(SECRET.as_bytes()));
    let keys =
        [hmac(Algorithm::HS256), hmac(Algorithm::HS384), hmac(Algorithm::HS512)].into_iter().chain(private_keys());
    keys.map(|(algorithm, key)| (format!("{algorithm:?}"), token(algorithm, &key))).collect()
}

pub fn fuzz_token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    match WORLD.verifier.verify(&text, now) {
        Ok(claims) => {
            let cleaned = cleaned(&text);
            let (message, signature) = cleaned.rsplit_once('.').expect("three parts");
            let payload = message.split_once('.').expect("three parts").1;
            let payload = URL_SAFE_NO_PAD.decode(payload).expect("base64");
            assert_eq!(claims.json.as_bytes(), payload, "the claims are not what was signed");
            let value: Value = serde_json::from_slice(&payload).expect("an object");
            assert_eq!(value["role"], *claims.role);
            assert!(claims.exp > NOW as i64);
            assert!(is_hmac(message, signature) || WORLD.signed.contains(message), "a forgery is taken: {cleaned}");
            assert_eq!(WORLD.verifier.verify(&text, now).as_ref(), Ok(&claims));
            let late = SystemTime::UNIX_EPOCH + Duration::from_secs(claims.exp.max(0) as u64);
            assert!(WORLD.verifier.verify(&text, late).is_err(), "a token outlives itself");
        }
        Err(error) => {
            assert!((401..=500).contains(&error.upgrade_status()));
            let texts = [error.upgrade_text(), error.join_reason(), error.system_text()];
            assert!(texts.iter().all(|told| told.len() <= 4 * text.len() + 200));
        }
    }
    if WORLD.metrics.admits(&text, now) {
        let cleaned = cleaned(&text);
        let (message, signature) = cleaned.rsplit_once('.').expect("three parts");
        assert!(is_hmac(message, signature), "a forgery opens the metrics: {cleaned}");
    }
}

/// The text as the verifier reads it: URL escapes and blanks are looked through (PROTOCOL 1.3).
fn cleaned(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = || -> Option<u8> {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let mut ahead = bytes.clone();
            Some((digit(ahead.next())? << 4 | digit(ahead.next())?) as u8)
        };
        let plain = match (byte, escaped()) {
            (b'%', Some(escaped)) => {
                bytes.next();
                bytes.next();
                escaped
            }
            _ => byte,
        };
        if !matches!(plain, b' ' | b'\t'..=b'\r') {
            out.push(plain);
        }
    }
    String::from_utf8(out).expect("UTF-8")
}

fn is_hmac(message: &str, signature: &str) -> bool {
    let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
    [hmac::HMAC_SHA256, hmac::HMAC_SHA384, hmac::HMAC_SHA512]
        .into_iter()
        .any(|kind| hmac::verify(&hmac::Key::new(kind, SECRET.as_bytes()), message.as_bytes(), &signature).is_ok())
}
