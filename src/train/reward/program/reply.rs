//! One line of a program's replies.

use serde_json::Value;

use super::super::super::data::beginning;

/// Why a line is no reply.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReplyError {
    #[error(
        "its reply `{found}` is not JSON ({reason}). Write {{\"id\": …, \"reward\": …}} lines only"
    )]
    NotJson { found: String, reason: String },
    #[error("its reply `{found}` has no \"id\" that is the request's. Copy it from the request")]
    NoId { found: String },
    #[error(
        "its reply `{found}` has no \"reward\" that is a finite number. Give one, or an \"error\""
    )]
    NoReward { found: String },
}

/// What a program said to one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// The reward, finite, or the program's error.
    pub verdict: Result<f64, String>,
}

impl Reply {
    /// Reads `{"id": 7, "reward": 1}` or `{"id": 7, "error": "…"}`; other keys are ignored.
    pub fn parse(line: &[u8]) -> Result<Self, ReplyError> {
        let text = String::from_utf8_lossy(line);
        let found = beginning(text.trim());
        let value: Value = match serde_json::from_slice(line) {
            Ok(value) => value,
            Err(_) if is_json_of_python(&text) => return Err(ReplyError::NoReward { found }),
            Err(error) => return Err(ReplyError::NotJson { found, reason: error.to_string() }),
        };
        let Some(id) = value.get("id").and_then(Value::as_u64) else {
            return Err(ReplyError::NoId { found });
        };
        let verdict = match (value.get("error"), value.get("reward").and_then(Value::as_f64)) {
            (Some(Value::String(message)), _) => Err(beginning(message)),
            (Some(Value::Null) | None, Some(reward)) if reward.is_finite() => Ok(reward),
            _ => return Err(ReplyError::NoReward { found }),
        };
        Ok(Self { id, verdict })
    }
}

/// Whether it would be JSON but for numbers that are not finite, which Python writes by name.
fn is_json_of_python(text: &str) -> bool {
    let finite = ["-Infinity", "Infinity", "NaN"]
        .iter()
        .fold(text.to_owned(), |text, name| text.replace(name, "null"));
    serde_json::from_str::<Value>(&finite).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reward_or_an_error_is_read() {
        let of = |line: &str| Reply::parse(line.as_bytes());
        assert_eq!(of(r#"{"id": 7, "reward": 0.5}"#), Ok(Reply { id: 7, verdict: Ok(0.5) }));
        assert_eq!(of(r#"{"reward": 1, "id": 0, "x": []}"#), Ok(Reply { id: 0, verdict: Ok(1.0) }));
        assert_eq!(
            of(r#"{"id": 7, "error": "no such unit"}"#),
            Ok(Reply { id: 7, verdict: Err("no such unit".into()) })
        );
    }

    #[test]
    fn what_is_no_reply_is_refused_and_quoted() {
        let of = |line: &[u8]| Reply::parse(line).unwrap_err();
        for line in ["", "ok", r#"{"id": 7, "reward": nan}"#, r#"{"id": 7, "reward": 1e999}"#] {
            assert!(matches!(of(line.as_bytes()), ReplyError::NotJson { .. }), "{line}");
        }
        assert!(matches!(of(b"\xff"), ReplyError::NotJson { .. }));
        for line in ["1", "{}", r#"{"reward": 1}"#, r#"{"id": "7", "reward": 1}"#, r#"{"id": -1}"#]
        {
            assert_eq!(of(line.as_bytes()), ReplyError::NoId { found: line.into() });
        }
        for name in ["NaN", "Infinity", "-Infinity"] {
            let line = format!(r#"{{"id": 7, "reward": {name}}}"#);
            assert_eq!(of(line.as_bytes()), ReplyError::NoReward { found: line });
        }
        for line in [r#"{"id":7}"#, r#"{"id":7,"reward":true}"#, r#"{"id":7,"reward":null}"#] {
            assert_eq!(of(line.as_bytes()), ReplyError::NoReward { found: line.into() });
        }
    }
}
