//! The keys in `testdata/` were made for these tests and open nothing.

use std::time::Duration;

use jsonwebtoken::Header;
use jsonwebtoken::jwk::Jwk;
use serde_json::json;

use super::*;

const SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";
const NOW: u64 = 1_800_000_000;
const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn good() -> Value {
    json!({"role": "authenticated", "exp": NOW + 60, "sub": "u1"})
}

fn verifier(config: VerifierConfig) -> Verifier {
    Verifier::new(&config).expect("a verifier").0
}

fn with_secret() -> Verifier {
    verifier(VerifierConfig { secret: Some(SECRET.into()), ..Default::default() })
}

fn verify(claims: Value) -> Result<Arc<Claims>, TokenError> {
    with_secret().verify(&mint(SECRET, &object(claims)).unwrap(), now())
}

fn signed(alg: Algorithm, kid: Option<&str>, key: &EncodingKey) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(alg) };
    jsonwebtoken::encode(&header, &good(), key).unwrap()
}

/// A token with a header that no library would write.
fn forged(header: Value, claims: Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(&header), part(&claims))
}

fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(include_bytes!("testdata/rsa.pem")).unwrap()
}

fn ec() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("testdata/ec.pem")).unwrap()
}

fn ed() -> EncodingKey {
    EncodingKey::from_ed_pem(include_bytes!("testdata/ed.pem")).unwrap()
}

/// Without `alg`, as many identity providers publish their keys.
fn public_jwk(kid: &str, key: &EncodingKey, alg: Algorithm) -> Value {
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(key, alg).unwrap()).unwrap();
    jwk["kid"] = json!(kid);
    jwk.as_object_mut().unwrap().remove("alg");
    jwk
}

fn with_jwks() -> Verifier {
    let oct =
        json!({"kty": "oct", "kid": "o", "k": URL_SAFE_NO_PAD.encode("another secret of the key set, long enough")});
    let keys = [
        public_jwk("r", &rsa(), Algorithm::RS256),
        public_jwk("e", &ec(), Algorithm::ES256),
        public_jwk("d", &ed(), Algorithm::EdDSA),
        oct,
    ];
    let jwks = Some(json!({"keys": keys}).to_string());
    verifier(VerifierConfig { secret: Some(SECRET.into()), jwks, ..Default::default() })
}

#[test]
fn a_token_gives_its_claims_as_they_were_signed() {
    let token = mint(SECRET, &object(json!({"role": "anon", "exp": NOW + 1, "z": [1.0, "é"], "a": null}))).unwrap();
    let claims = with_secret().verify(&token, now()).unwrap();
    assert_eq!((claims.role.as_str(), claims.exp, &claims.sub), ("anon", NOW as i64 + 1, &None));
    let expected = format!(r#"{{"role":"anon","exp":{},"z":[1.0,"é"],"a":null}}"#, NOW + 1);
    assert_eq!(&*claims.json, expected);
}

#[test]
fn exp_must_be_later_than_now() {
    let exp = |exp: Value| verify(json!({"role": "anon", "exp": exp}));
    assert!(exp(json!(NOW + 1)).is_ok());
    assert_eq!(exp(json!(NOW)), Err(TokenError::Expired { seconds_ago: 0 }));
    assert_eq!(exp(json!(NOW - 60)), Err(TokenError::Expired { seconds_ago: 60 }));
    assert!(exp(json!(NOW as f64 + 0.75)).is_ok());
    assert!(exp(json!(NOW as f64 + 0.25)).is_err());
    assert!(exp(json!(1e300)).is_ok());
    assert!(matches!(exp(json!(-1e300)), Err(TokenError::Expired { .. })));
}

#[test]
fn role_and_exp_are_required() {
    assert_eq!(verify(json!({"exp": NOW + 9})), Err(TokenError::ClaimsMissing));
    assert_eq!(verify(json!({"role": "anon"})), Err(TokenError::ClaimsMissing));
    assert_eq!(verify(json!({"role": "anon", "exp": "2999"})), Err(TokenError::ClaimsMissing));
    assert_eq!(verify(json!({"role": 7, "exp": NOW + 9})), Err(TokenError::ClaimsMissing));
    // What has expired is said before what is missing.
    assert!(matches!(verify(json!({"exp": NOW - 9})), Err(TokenError::Expired { .. })));
}

#[test]
fn iat_is_a_number_or_absent() {
    let iat = |iat: Value| verify(json!({"role": "anon", "exp": NOW + 9, "iat": iat}));
    assert!(iat(json!(1.5)).is_ok());
    assert!(matches!(iat(json!("1")), Err(TokenError::ClaimInvalid { claim, .. }) if claim == "iat"));
}

#[test]
fn configured_claims_must_be_equal() {
    let claim_validators = object(json!({"iss": "https://me"}));
    let verifier = verifier(VerifierConfig { secret: Some(SECRET.into()), claim_validators, ..Default::default() });
    let with = |iss: Value| {
        let claims = object(json!({"role": "anon", "exp": NOW + 9, "iss": iss}));
        verifier.verify(&mint(SECRET, &claims).unwrap(), now())
    };
    assert!(with(json!("https://me")).is_ok());
    let refused = with(json!("https://you")).unwrap_err();
    assert_eq!((refused.upgrade_status(), refused.upgrade_text().as_str()), (500, "Error connecting to Realtime"));
    let absent = verifier.verify(&mint(SECRET, &object(good())).unwrap(), now());
    assert!(matches!(absent, Err(TokenError::ClaimInvalid { .. })));
}

#[test]
fn escapes_and_whitespace_are_removed_first() {
    let token = mint(SECRET, &object(good())).unwrap();
    let dressed = format!(" {}\n{}%20%0A", token[..20].replace('e', "%65"), &token[20..]);
    assert!(with_secret().verify(&dressed, now()).is_ok());
    assert_eq!(with_secret().verify(&format!("{token}%zz"), now()), Err(TokenError::Signature));
}

#[test]
fn what_is_no_token_is_malformed() {
    let token = mint(SECRET, &object(good())).unwrap();
    let header = token.split('.').next().unwrap();
    let array = format!("{header}.{}.x", URL_SAFE_NO_PAD.encode("[1]"));
    let no_json = format!("{header}.{}.x", URL_SAFE_NO_PAD.encode("{"));
    let no_utf8 = format!("{header}.{}.x", URL_SAFE_NO_PAD.encode(b"{\"a\":\"\xff\"}"));
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    for text in
        ["", "abc", "not-a-jwt", "..", "a.b.c", &format!("{token}.x"), &array, &no_json, &no_utf8, "%ff.%ff.%ff", &long]
    {
        assert_eq!(with_secret().verify(text, now()), Err(TokenError::Malformed), "{text}");
    }
}

#[test]
fn another_secret_does_not_verify() {
    let token = mint("another", &object(good())).unwrap();
    assert_eq!(with_secret().verify(&token, now()), Err(TokenError::Signature));
    let mut altered = mint(SECRET, &object(good())).unwrap();
    altered.truncate(altered.rfind('.').unwrap() + 1);
    assert_eq!(with_secret().verify(&altered, now()), Err(TokenError::Signature));
}

#[test]
fn all_hmac_lengths_verify() {
    for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = signed(alg, None, &EncodingKey::from_secret(SECRET.as_bytes()));
        assert!(with_secret().verify(&token, now()).is_ok(), "{alg:?}");
    }
}

#[test]
fn keys_of_the_set_are_found_by_kid() {
    let verifier = with_jwks();
    let tokens = [
        signed(Algorithm::RS256, Some("r"), &rsa()),
        signed(Algorithm::RS512, Some("r"), &rsa()),
        signed(Algorithm::PS256, Some("r"), &rsa()),
        signed(Algorithm::ES256, Some("e"), &ec()),
        signed(Algorithm::EdDSA, Some("d"), &ed()),
    ];
    for token in tokens {
        assert!(verifier.verify(&token, now()).is_ok(), "{token}");
    }
    let unknown = signed(Algorithm::ES256, Some("x"), &ec());
    assert_eq!(verifier.verify(&unknown, now()), Err(TokenError::Signer { kid: Some("x".into()) }));
    let without = signed(Algorithm::ES256, None, &ec());
    assert_eq!(verifier.verify(&without, now()), Err(TokenError::Signer { kid: None }));
    let crossed = signed(Algorithm::ES256, Some("r"), &ec());
    assert_eq!(verifier.verify(&crossed, now()), Err(TokenError::Signer { kid: Some("r".into()) }));
}

#[test]
fn an_hmac_token_uses_the_sets_key_or_else_the_secret() {
    let own = EncodingKey::from_secret(b"another secret of the key set, long enough");
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let verifier = with_jwks();
    assert!(verifier.verify(&signed(Algorithm::HS256, Some("o"), &own), now()).is_ok());
    assert!(verifier.verify(&signed(Algorithm::HS256, Some("unmatched"), &secret), now()).is_ok());
    let refused = verifier.verify(&signed(Algorithm::HS256, Some("o"), &secret), now());
    assert_eq!(refused, Err(TokenError::Signature));
}

#[test]
fn alg_none_is_refused() {
    for alg in ["none", "None", "NONE", "", "HS1", "hs256"] {
        let token = forged(json!({"alg": alg, "typ": "JWT"}), good(), "");
        assert_eq!(with_jwks().verify(&token, now()), Err(TokenError::Signer { kid: None }), "{alg}");
    }
    assert_eq!(with_jwks().verify(&forged(json!({}), good(), ""), now()), Err(TokenError::Signer { kid: None }));
}

#[test]
fn a_public_key_is_no_hmac_secret() {
    // The classic: a token signed with HMAC whose "secret" is the published RSA key, in any of its spellings.
    let jwk = public_jwk("r", &rsa(), Algorithm::RS256);
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    let spellings: [&[u8]; 4] =
        [RSA_PUBLIC.as_bytes(), RSA_PUBLIC.trim().as_bytes(), &modulus, jwk["n"].as_str().unwrap().as_bytes()];
    for spelling in spellings {
        let token = signed(Algorithm::HS256, Some("r"), &EncodingKey::from_secret(spelling));
        assert_eq!(with_jwks().verify(&token, now()), Err(TokenError::Signature));
        let only_set = VerifierConfig { jwks: Some(json!({"keys": [jwk.clone()]}).to_string()), ..Default::default() };
        assert_eq!(verifier(only_set).verify(&token, now()), Err(TokenError::Signer { kid: None }));
    }
}

#[test]
fn a_critical_extension_that_is_unknown_is_refused() {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let head = forged(json!({"alg": "HS256", "crit": ["b64"], "b64": false}), good(), "");
    let message = head.trim_end_matches('.');
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    let token = format!("{message}.{signature}");
    assert_eq!(with_secret().verify(&token, now()), Err(TokenError::Signer { kid: None }));
}

#[test]
fn a_remembered_token_still_expires() {
    let verifier = with_secret();
    let token = mint(SECRET, &object(good())).unwrap();
    let first = verifier.verify(&token, now()).unwrap();
    let second = verifier.verify(&token, now() + Duration::from_secs(59)).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let late = verifier.verify(&token, now() + Duration::from_secs(63));
    assert_eq!(late, Err(TokenError::Expired { seconds_ago: 3 }));
}

#[test]
fn a_remembered_token_does_not_outlive_its_key() {
    let verifier = with_jwks();
    let token = signed(Algorithm::ES256, Some("e"), &ec());
    assert!(verifier.verify(&token, now()).is_ok());
    verifier.inner.keys.store(Arc::new(Keys::default()));
    assert_eq!(verifier.verify(&token, now()), Err(TokenError::Signer { kid: Some("e".into()) }));
}

#[test]
fn what_is_remembered_is_bounded() {
    let verifier = with_secret();
    for n in 0..600 {
        let claims = object(json!({"role": "anon", "exp": NOW + 9, "n": n, "pad": "x".repeat(30_000)}));
        verifier.verify(&mint(SECRET, &claims).unwrap(), now()).unwrap();
    }
    let cache = verifier.inner.cache.lock().unwrap();
    assert!(cache.bytes <= CACHE_BYTES_MAX && cache.tokens.len() < 600, "{} bytes", cache.bytes);
}

#[test]
fn without_any_key_there_is_no_verifier() {
    assert!(matches!(Verifier::new(&VerifierConfig::default()), Err(KeyError::NoKeys)));
    let empty = VerifierConfig { secret: Some(String::new()), ..Default::default() };
    assert!(matches!(Verifier::new(&empty), Err(KeyError::NoKeys)));
    let broken = VerifierConfig { jwks: Some("{".into()), ..Default::default() };
    assert!(matches!(Verifier::new(&broken), Err(KeyError::Jwks(_))));
}

#[tokio::test]
async fn an_unknown_kid_has_the_set_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, r#"{"keys":[]}"#).unwrap();
    let config = VerifierConfig { jwks: Some(path.display().to_string()), ..Default::default() };
    let (verifier, task) = Verifier::new(&config).unwrap();
    let mut task = task.expect("a file is read again");
    let token = signed(Algorithm::ES256, Some("e"), &ec());
    std::fs::write(&path, json!({"keys": [public_jwk("e", &ec(), Algorithm::ES256)]}).to_string()).unwrap();

    assert_eq!(verifier.verify(&token, now()), Err(TokenError::Signer { kid: Some("e".into()) }));
    task.wanted.notified().await;
    task.refresh().await.unwrap();
    assert!(verifier.verify(&token, now()).is_ok());

    // A set that cannot be read takes no key away.
    std::fs::write(&path, "{").unwrap();
    assert!(task.refresh().await.is_err());
    assert!(verifier.verify(&token, now()).is_ok());
}

#[test]
fn api_keys_are_what_they_stand_for() {
    let good = mint(SECRET, &object(json!({"role": "service_role", "exp": NOW + 9}))).unwrap();
    let stale = mint(SECRET, &object(json!({"role": "service_role", "exp": NOW}))).unwrap();
    let pairs = [format!("sb_secret_a={good}"), format!("sb_secret_b={stale}"), "sb_publishable_c=anon".to_owned()];
    let api_keys = ApiKeys::parse(pairs.iter().map(String::as_str)).unwrap();
    let verifier = verifier(VerifierConfig { secret: Some(SECRET.into()), api_keys, ..Default::default() });
    let role = |key: &str| verifier.verify(key, now()).map(|claims| claims.role.clone());
    assert_eq!(role("sb_secret_a"), Ok("service_role".to_owned()));
    assert_eq!(role("sb_publishable_c"), Ok("anon".to_owned()));
    // A token that a key stands for is verified like any other.
    assert_eq!(role("sb_secret_b"), Err(TokenError::Expired { seconds_ago: 0 }));
    assert_eq!(role("sb_secret_d"), Err(TokenError::Malformed));
}
