//! As much of an HTTP client as the lab needs to look at its Envoys: one GET, one answer.

use anyhow::{Context as _, Result, bail, ensure};
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Longest answer that is read, in bytes: a Prometheus page of a large mesh has a few MiB.
const MAX_ANSWER: u64 = 64 << 20;
/// How long one read or write may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The head, with its status line.
    pub head: String,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks once and reads until the server closes. `headers` are whole lines (`name: value`).
///
/// # Errors
/// The connection fails, or what comes back is no HTTP/1.1.
pub fn get(mut stream: TcpStream, host: &str, path: &str, headers: &[&str]) -> Result<Answer> {
    stream.set_read_timeout(Some(TIMEOUT)).context("cannot set a timeout")?;
    stream.set_write_timeout(Some(TIMEOUT)).context("cannot set a timeout")?;
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).with_context(|| format!("cannot send GET {path}"))?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut bytes).with_context(|| format!("no answer to GET {path}"))?;
    parse(&bytes).with_context(|| format!("the answer to GET {path}"))
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else { bail!("has no complete head ({} bytes)", bytes.len()) };
    let (head, body) = bytes.split_at(end + 4);
    let head = String::from_utf8_lossy(head).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let Some(status) = status else { bail!("has no status: {head:?}") };
    let chunked = head
        .lines()
        .any(|line| line.to_ascii_lowercase().starts_with("transfer-encoding:") && line.contains("chunked"));
    let body = if chunked { join_chunks(body)? } else { body.to_vec() };
    Ok(Answer { status, head, body })
}

/// RFC 9112, section 7.1. Trailers are dropped.
fn join_chunks(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else {
            bail!("ends within a chunk")
        };
        let line = String::from_utf8_lossy(&rest[..end]);
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size =
            usize::from_str_radix(digits, 16).with_context(|| format!("has a chunk of size {digits:?}"))?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        ensure!(rest.len() >= size.saturating_add(2), "ends within a chunk");
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_plain_bodies_are_kept() {
        let answer = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "abcde"));
        assert_eq!(parse(b"HTTP/1.1 404 Not Found\r\n\r\nno").unwrap().body, b"no");
    }

    #[test]
    fn what_is_cut_or_no_http_is_an_error() {
        for bytes in [
            b"".as_slice(),
            b"HTTP/1.1 200 OK\r\n",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
