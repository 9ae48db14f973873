//! JSON as a guide shows it: `…` stands for whatever is there, a time for any.

use serde_json::Value;

/// Whether `real` is what `shown` says.
pub fn is_as_shown(shown: &Value, real: &Value) -> bool {
    match (shown, real) {
        (Value::String(shown), Value::String(real)) => match shown.split_once('…') {
            Some((before, after)) => real.len() > before.len() + after.len() && real.starts_with(before) && real.ends_with(after),
            None => shown == real,
        },
        (Value::Object(shown), Value::Object(real)) => {
            let is_member = |(key, shown): (&String, &Value)| {
                let is_time = key == "time" && shown.is_u64();
                real.get(key).is_some_and(|real| if is_time { real.is_u64() } else { is_as_shown(shown, real) })
            };
            shown.len() == real.len() && shown.iter().all(is_member)
        }
        (Value::Array(shown), Value::Array(real)) => {
            shown.len() == real.len() && shown.iter().zip(real).all(|(shown, real)| is_as_shown(shown, real))
        }
        _ => shown == real,
    }
}

#[test]
fn only_what_is_left_open_may_differ() {
    use serde_json::json;
    let shown = json!({"id": "…", "at": "a…", "meta": {"time": 17}, "n": [1, null]});
    assert!(is_as_shown(&shown, &json!({"id": "x.y", "at": "ab", "meta": {"time": 99}, "n": [1, null]})));
    for wrong in [
        json!({"id": "", "at": "ab", "meta": {"time": 99}, "n": [1, null]}),
        json!({"id": "x", "at": "b", "meta": {"time": 99}, "n": [1, null]}),
        json!({"id": "x", "at": "ab", "meta": {"time": "99"}, "n": [1, null]}),
        json!({"id": "x", "at": "ab", "meta": {"time": 99}, "n": [1]}),
        json!({"id": "x", "at": "ab", "meta": {"time": 99}, "n": [1, null], "more": 1}),
        json!({"id": 7, "at": "ab", "meta": {"time": 99}, "n": [1, null]}),
    ] {
        assert!(!is_as_shown(&shown, &wrong), "{wrong}");
    }
}
