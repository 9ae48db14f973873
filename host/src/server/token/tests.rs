//! Tokens, good and bad, with real keys.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::TokenFault::{Audience, Expired, Issuer as OtherIssuer, Malformed, NotYet, Signature, Times, UnknownKey};
use super::*;
use crate::config::{TokenAlgorithm, TokenKey};
use crate::server::follow::Followed as _;
use crate::server::tests::issuer::{Issuer, in_seconds};

fn algorithm(name: &str) -> TokenAlgorithm {
    match name {
        "HS256" => TokenAlgorithm::HS256,
        "RS256" => TokenAlgorithm::RS256,
        "ES256" => TokenAlgorithm::ES256,
        _ => TokenAlgorithm::EdDsa,
    }
}

fn key(dir: &Path, issuer: &Issuer, id: Option<&str>) -> TokenKey {
    let file = dir.join(format!("{}-{}", issuer.algorithm, id.unwrap_or_default()));
    std::fs::write(&file, &issuer.key_file).unwrap();
    TokenKey { algorithm: algorithm(issuer.algorithm), file, id: id.map(ToOwned::to_owned) }
}

struct Check {
    tokens: Arc<Tokens>,
    dir: TempDir,
}

impl Check {
    fn with(issuers: &[(&Issuer, Option<&str>)], change: impl FnOnce(&mut TokenSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = issuers.iter().map(|(issuer, id)| key(dir.path(), issuer, *id)).collect();
        let mut settings = TokenSettings { keys, ..TokenSettings::default() };
        change(&mut settings);
        Self { tokens: Tokens::open(&settings).unwrap().unwrap(), dir }
    }

    fn of(issuer: &Issuer) -> Self {
        Self::with(&[(issuer, None)], |_| {})
    }

    fn fault(&self, token: &str) -> Option<TokenFault> {
        self.tokens.check(token).err()
    }
}

fn good() -> Value {
    json!({"sub": "7", "exp": in_seconds(600)})
}

#[test]
fn each_algorithm_is_verified_and_a_changed_bit_is_not() {
    let issuers = Issuer::all();
    let all = Check::with(&issuers.each_ref().map(|issuer| (issuer, None)), |_| {});
    for issuer in &issuers {
        let token = issuer.token(&good());
        let verified = all.tokens.check(&token).unwrap();
        assert_eq!((&verified.claims["sub"], verified.expires_ms % 1000), (&json!("7"), 0), "{}", issuer.algorithm);
        let forged = issuer.token(&json!({"sub": "8", "exp": in_seconds(600)}));
        let (forged, signature) = (forged.rsplit_once('.').unwrap().0, token.rsplit_once('.').unwrap().1);
        assert_eq!(all.fault(&format!("{forged}.{signature}")), Some(Signature), "{}", issuer.algorithm);
        assert_eq!(all.fault(&format!("{forged}.")), Some(Signature), "{}", issuer.algorithm);
    }
}

#[test]
fn the_algorithm_is_the_keys_own() {
    let rsa = Issuer::rs256();
    let check = Check::of(&rsa);
    // Whoever takes the token's word for the algorithm takes the public key, which everybody knows, for the secret.
    assert_eq!(check.fault(&Issuer::of_secret(&rsa.key_file).token(&good())), Some(UnknownKey));
    let bytes = check.tokens.keys.load()[0].decoding.try_get_as_bytes().unwrap().to_vec();
    assert_eq!(check.fault(&Issuer::of_secret(&bytes).token(&good())), Some(UnknownKey));
    let none = Issuer::of_secret(b"x").sign(r#"{"alg":"none"}"#, &good().to_string());
    for token in [none.clone(), format!("{}.", none.rsplit_once('.').unwrap().0)] {
        assert_eq!(check.fault(&token), Some(Malformed));
    }
    assert_eq!(check.fault(&rsa.sign(r#"{"alg":"RS384"}"#, &good().to_string())), Some(UnknownKey));
    assert_eq!(check.fault(&rsa.sign(r#"{"alg":"rs256"}"#, &good().to_string())), Some(Malformed));
    for issuer in [Issuer::hs256(), Issuer::es256(), Issuer::eddsa()] {
        assert_eq!(check.fault(&issuer.token(&good())), Some(UnknownKey), "{}", issuer.algorithm);
        assert_eq!(Check::of(&issuer).fault(&rsa.token(&good())), Some(UnknownKey), "{}", issuer.algorithm);
    }
    for (ours, theirs) in [(Issuer::hs256(), Issuer::hs256()), (Issuer::es256(), Issuer::es256()), (Issuer::eddsa(), Issuer::eddsa())] {
        assert_eq!(Check::of(&ours).fault(&theirs.token(&good())), Some(Signature), "{}", ours.algorithm);
    }
}

#[test]
fn a_kid_picks_the_key() {
    let (old, new, plain) = (Issuer::es256(), Issuer::es256(), Issuer::es256());
    let check = Check::with(&[(&old, Some("old")), (&new, Some("new")), (&plain, None)], |_| {});
    let token = |issuer: &Issuer, kid: &str| issuer.sign(&format!(r#"{{"alg":"ES256"{kid}}}"#), &good().to_string());
    assert_eq!(check.fault(&token(&old, r#","kid":"old""#)), None);
    assert_eq!(check.fault(&token(&new, r#","kid":"new""#)), None);
    assert_eq!(check.fault(&token(&old, r#","kid":"new""#)), Some(Signature));
    assert_eq!(check.fault(&token(&old, "")), Some(Signature), "a key with an id is for its tokens only");
    assert_eq!((check.fault(&token(&plain, "")), check.fault(&token(&plain, r#","kid":"any""#))), (None, None));
    let strict = Check::with(&[(&old, Some("old"))], |_| {});
    for kid in ["", r#","kid":"new""#, r#","kid":"../old""#] {
        assert_eq!(strict.fault(&token(&old, kid)), Some(UnknownKey), "{kid}");
    }
    for kid in [r#","kid":7"#, r#","kid":"old","kid":"old""#, r#","crit":["b64"],"b64":false,"kid":"old""#, r#","alg":"ES256""#] {
        assert_eq!(strict.fault(&token(&old, kid)), Some(Malformed), "{kid}");
    }
}

#[test]
fn times_are_kept() {
    let issuer = Issuer::eddsa();
    let check = Check::of(&issuer);
    let fault = |claims: Value| check.fault(&issuer.token(&claims));
    assert_eq!(fault(json!({"exp": in_seconds(-60)})), Some(Expired));
    assert_eq!(fault(json!({"exp": in_seconds(-5)})), None, "within the leeway");
    assert_eq!(fault(json!({"exp": in_seconds(60), "nbf": in_seconds(60)})), Some(NotYet));
    assert_eq!(fault(json!({"exp": in_seconds(60), "nbf": in_seconds(5)})), None);
    for exp in [json!(null), json!(in_seconds(60).to_string()), json!(-1), json!(1e300), json!(true)] {
        assert_eq!(fault(json!({ "exp": exp })), Some(Times), "{exp}");
    }
    assert_eq!(fault(json!({"sub": "7"})), Some(Times));
    assert_eq!(fault(json!({"exp": [in_seconds(60)]})), Some(Malformed));
    assert_eq!(fault(json!({"exp": in_seconds(60), "nbf": "now"})), Some(Times));
    for (exp, expires_ms) in [(json!(u64::MAX), u64::MAX), (json!(4_000_000_000.25), 4_000_000_000_000)] {
        assert_eq!(check.tokens.check(&issuer.token(&json!({ "exp": exp }))).unwrap().expires_ms, expires_ms, "{exp}");
    }
}

#[test]
fn issuer_and_audience_are_asked_for_when_they_are_set() {
    let issuer = Issuer::hs256();
    let check = Check::with(&[(&issuer, None)], |settings| {
        settings.issuer = Some("https://shop".to_owned());
        settings.audience = Some("chat".to_owned());
    });
    let fault = |iss: Value, aud: Value| check.fault(&issuer.token(&json!({"exp": in_seconds(60), "iss": iss, "aud": aud})));
    let (shop, chat) = (json!("https://shop"), json!("chat"));
    assert_eq!(fault(shop.clone(), chat.clone()), None);
    assert_eq!(fault(shop.clone(), json!(["mail", "chat"])), None);
    for iss in [json!("https://shop/"), json!(null), json!(7), json!(["https://shop"])] {
        assert_eq!(fault(iss.clone(), chat.clone()), Some(OtherIssuer), "{iss}");
    }
    for aud in [json!("mail"), json!(null), json!(7), json!([]), json!(["mail"]), json!([["chat"]])] {
        assert_eq!(fault(shop.clone(), aud.clone()), Some(Audience), "{aud}");
    }
    let unset = Check::of(&issuer);
    assert_eq!(unset.fault(&issuer.token(&json!({"exp": in_seconds(60), "iss": 7, "aud": "other"}))), None);
}

#[test]
fn what_is_no_token_is_refused_whatever_it_is() {
    let issuer = Issuer::hs256();
    let check = Check::of(&issuer);
    let token = issuer.token(&good());
    let (head, claims, signature) = match *token.split('.').collect::<Vec<_>>() {
        [head, claims, signature] => (head, claims, signature),
        _ => unreachable!(),
    };
    let exp = in_seconds(60);
    let odd = [
        ".".repeat(3_000_000),
        ".".repeat(8_000),
        String::new(),
        "..".to_owned(),
        head.to_owned(),
        format!("{head}.{claims}"),
        format!("{token}."),
        format!("{token}.x"),
        format!("{token} "),
        format!("{token}="),
        format!("{token}\0"),
        format!("{head}.{claims}.{}", "€".repeat(20)),
        format!("{head}.{claims}.+/+/"),
        format!("é{token}"),
        issuer.token(&json!({"exp": exp, "fill": "x".repeat(9 * 1024)})),
        issuer.sign(r#"{"alg":"HS256"}"#, "[1]"),
        issuer.sign(r#"{"alg":"HS256"}"#, "\"text\""),
        issuer.sign(r#"{"alg":"HS256"}"#, "null"),
        issuer.sign(r#"{"alg":"HS256"}"#, &format!("{{\"exp\":{exp}}} {{}}")),
        issuer.sign(r#"{"alg":"HS256"}"#, &format!(r#"{{"sub":"7","exp":{exp},"sub":"8"}}"#)),
        issuer.sign(r#"{"alg":"HS256"}"#, &format!(r#"{{"exp":1,"exp":{exp}}}"#)),
        issuer.sign(r#"{"alg":"HS256"}"#, &format!(r#"{{"role":"a","exp":{exp},"role":"b"}}"#)),
        issuer.sign(r#"{"alg":"HS256"}"#, &format!(r#"{{"exp":{exp},"x":{}}}"#, "[".repeat(2_000))),
        issuer.sign("not json", &good().to_string()),
        issuer.sign("[]", &good().to_string()),
        issuer.sign("{}", &good().to_string()),
    ];
    for token in &odd {
        assert_eq!(check.fault(token), Some(Malformed), "{}", token.chars().take(60).collect::<String>());
    }
    assert_eq!(check.fault(&format!("{head}.{claims}.{}", &signature[..40])), Some(Signature));
    assert_eq!(check.fault(&token), None, "and a good one is still good");
}

#[test]
fn a_key_that_changes_is_taken_up_and_a_bad_file_changes_nothing() {
    let (old, new) = (Issuer::es256(), Issuer::es256());
    let check = Check::of(&old);
    let file = check.dir.path().join("ES256-");
    let faults = || (check.fault(&old.token(&good())), check.fault(&new.token(&good())));
    assert_eq!(faults(), (None, Some(Signature)));
    let (key_file, mut watch) = check.tokens.watched().remove(0);
    // Twice, so that it is at rest.
    let mut look = || (0..2).any(|_| watch.judge(&key_file, key_file.read()));
    for bad in [&b"half a k"[..], b"", &new.key_file[..40]] {
        std::fs::write(&file, bad).unwrap();
        assert!(!look());
        assert_eq!(faults(), (None, Some(Signature)));
    }
    std::fs::remove_file(&file).unwrap();
    assert!(!look());
    assert_eq!(faults(), (None, Some(Signature)));
    std::fs::write(&file, &new.key_file).unwrap();
    assert!(look());
    assert_eq!(faults(), (Some(Signature), None));
}

#[test]
fn a_key_that_can_not_be_used_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let [hs, rs, es, ed] = Issuer::all();
    let private = include_str!("../../../../tests/keys/rsa.key").as_bytes();
    let certificate = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".as_bytes();
    let weak = include_str!("../../../../tests/keys/rsa-1024.pub");
    for (algorithm, bytes, named) in [
        (TokenAlgorithm::HS256, &b"0123456789012345678901234567890\n"[..], "has 31; `openssl rand"),
        (TokenAlgorithm::HS256, &rs.key_file[..], "this is a PEM file"),
        (TokenAlgorithm::RS256, private, "a private key"),
        (TokenAlgorithm::RS256, &es.key_file[..], "RS256 needs the public part of an RSA key"),
        (TokenAlgorithm::RS256, weak.as_bytes(), "2048 to 8192 bits"),
        (TokenAlgorithm::RS256, certificate, "`BEGIN PUBLIC KEY`"),
        (TokenAlgorithm::ES256, &ed.key_file[..], "P-256"),
        (TokenAlgorithm::ES256, &rs.key_file[..], "P-256"),
        (TokenAlgorithm::EdDsa, &es.key_file[..], "Ed25519"),
        (TokenAlgorithm::EdDsa, &hs.key_file[..], "Ed25519"),
        (TokenAlgorithm::EdDsa, &[0xff; 40], "Ed25519"),
        (TokenAlgorithm::HS256, &[b'x'; 70_000], "more than 65536 bytes"),
    ] {
        let file = dir.path().join("the.key");
        std::fs::write(&file, bytes).unwrap();
        let settings = TokenSettings { keys: vec![TokenKey { algorithm, file, id: None }], ..TokenSettings::default() };
        let error = Tokens::open(&settings).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("the.key") && error.contains(named), "{algorithm:?}: {error}");
    }
    let missing = TokenKey { algorithm: TokenAlgorithm::HS256, file: dir.path().join("none"), id: None };
    let error = Tokens::open(&TokenSettings { keys: vec![missing], ..TokenSettings::default() }).err().unwrap().to_string();
    assert!(error.contains("none") && error.contains("put the key there"), "{error}");
    assert!(Tokens::open(&TokenSettings::default()).unwrap().is_none());
}
