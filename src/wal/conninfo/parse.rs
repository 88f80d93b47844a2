//! The two spellings of a conninfo, as libpq reads them: a URI, or `key=value` pairs.

use super::ConninfoError;

/// Keys and values in the order given; percent-encoding and quotes are resolved, nothing is interpreted.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, ConninfoError> {
    let text = text.trim();
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => uri(rest),
        None => keyword_value(text),
    }
}

fn malformed<T>(what: &'static str) -> Result<T, ConninfoError> {
    Err(ConninfoError::Malformed(what))
}

/// `[user[:password]@][host[:port]][/dbname][?key=value&...]`
fn uri(rest: &str) -> Result<Vec<(String, String)>, ConninfoError> {
    let mut pairs = Vec::new();
    let mut push = |key: &str, value: &str| -> Result<(), ConninfoError> {
        if !value.is_empty() {
            pairs.push((key.to_owned(), percent_decode(value)?));
        }
        Ok(())
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    // A password may hold an unencoded slash or at sign only at the user's peril; libpq, too, takes the first '@'
    // that stands before the first '/'.
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let host_and_port = match authority.split_once('@') {
        Some((login, host)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            push("user", user)?;
            push("password", password)?;
            host
        }
        None => authority,
    };
    if host_and_port.contains(',') {
        return Err(ConninfoError::SeveralHosts);
    }
    let (host, port) = match host_and_port.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else {
                return malformed("an IPv6 address in brackets does not end");
            };
            match after.strip_prefix(':') {
                None if !after.is_empty() => return malformed("something other than a port follows the IPv6 address"),
                port => (address, port.unwrap_or("")),
            }
        }
        None => host_and_port.split_once(':').unwrap_or((host_and_port, "")),
    };
    push("host", host)?;
    push("port", port)?;
    push("dbname", dbname)?;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let Some((key, value)) = parameter.split_once('=') else {
            return malformed("a query parameter of the URI has no '='");
        };
        pairs.push((percent_decode(key)?, percent_decode(value)?));
    }
    Ok(pairs)
}

fn percent_decode(text: &str) -> Result<String, ConninfoError> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) if (high, low) != (0, 0) => out.push((high * 16 + low) as u8),
            _ => return malformed("a '%' of the URI is not followed by two hexadecimal digits (write '%' as %25)"),
        }
    }
    String::from_utf8(out).or_else(|_| malformed("percent-encoded bytes of the URI are not UTF-8"))
}

/// `key = 'value with spaces' key=value`: a backslash escapes, in quotes and outside.
fn keyword_value(text: &str) -> Result<Vec<(String, String)>, ConninfoError> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        match chars.next() {
            None if key.is_empty() => return Ok(pairs),
            Some('=') if !key.is_empty() => {}
            // Not the text itself: a mangled conninfo often has the password where a key should be.
            _ => return malformed("expected key=value pairs, or a URI that begins with postgres://"),
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                None if quoted => return malformed("a quoted value does not end"),
                None => break,
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
            }
        }
        pairs.push((key, value));
    }
}
