//! ● Answers of the admin server: JSON, text, and problems (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::access::Refusal;

pub(super) type Reply = Response<Full<Bytes>>;

/// 200 with a body of this type.
pub(super) fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    of(StatusCode::OK, content_type, body.into())
}

/// JSON for people too: indented, with a last line end.
pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Reply {
    match serde_json::to_string_pretty(value) {
        Ok(text) => of(status, "application/json", (text + "\n").into()),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// `application/problem+json`. `detail` is a sentence that says what to do.
pub(super) fn problem(status: StatusCode, detail: &str) -> Reply {
    problem_with(status, detail, json!({}))
}

/// A problem with members of its own.
pub(super) fn problem_with(status: StatusCode, detail: &str, members: Value) -> Reply {
    let mut value = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    if let (Value::Object(value), Value::Object(members)) = (&mut value, members) {
        value.extend(members);
    }
    of(status, "application/problem+json", format!("{value:#}\n").into())
}

pub(super) fn not_allowed(allow: &'static str) -> Reply {
    let mut reply =
        problem(StatusCode::METHOD_NOT_ALLOWED, &format!("this path answers to {allow}"));
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    reply
}

pub(super) fn refused(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::NoTokenConfigured => problem(
            StatusCode::FORBIDDEN,
            "over TCP only reading from loopback is open; use admin.socket, or set admin.token \
             and send it as `Authorization: Bearer TOKEN`",
        ),
        Refusal::ForeignHost => problem(
            StatusCode::MISDIRECTED_REQUEST,
            "without the token, Host must be an IP address or localhost",
        ),
        Refusal::Unauthorized => {
            let mut reply = problem(
                StatusCode::UNAUTHORIZED,
                "send the token of admin.token as `Authorization: Bearer TOKEN`, or use \
                 admin.socket",
            );
            let challenge = HeaderValue::from_static("Bearer realm=\"standfast\"");
            reply.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            reply
        }
    }
}

fn of(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}
