//! gRPC's framing and the error details that OTLP uses.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;
use std::time::Duration;

/// Length of a gRPC message's prefix: a flag and four bytes of length (gRPC over HTTP/2,
/// Length-Prefixed-Message).
pub(super) const PREFIX_LEN: usize = 5;

/// Type URL of [`RetryInfo`].
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, Copy, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Status {
    /// A status that asks to be retried after `delay`.
    pub(super) fn with_retry(code: i32, message: &str, delay: Duration) -> Self {
        let retry_delay = ProtoDuration {
            seconds: delay.as_secs().try_into().unwrap_or(i64::MAX),
            nanos: delay.subsec_nanos().try_into().unwrap_or(0),
        };
        let value = RetryInfo { retry_delay: Some(retry_delay) }.encode_to_vec();
        let details = vec![Any { type_url: RETRY_INFO.to_owned(), value }];
        Self { code, message: message.to_owned(), details }
    }

    /// The delay that the status asks for. A `RetryInfo` without one asks for none in particular:
    /// zero.
    pub(super) fn retry_delay(&self) -> Option<Duration> {
        let info = self.details.iter().find(|detail| detail.type_url == RETRY_INFO)?;
        let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
        // Negative durations are valid protobuf and mean nothing here.
        let seconds = u64::try_from(delay.seconds).unwrap_or(0);
        let nanos = u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999);
        Some(Duration::new(seconds, nanos))
    }
}

/// The message with its prefix in front.
pub(super) fn frame(message: &[u8], compressed: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_LEN + message.len());
    out.put_u8(u8::from(compressed));
    // Batches are cut at some MiB.
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

/// The one message of a unary call, and whether it is compressed. `None` where the body is not
/// exactly one message.
pub(super) fn unframe(body: &Bytes) -> Option<(Bytes, bool)> {
    let (prefix, message) = body.split_first_chunk::<PREFIX_LEN>()?;
    let [flag, length @ ..] = *prefix;
    let fits = usize::try_from(u32::from_be_bytes(length)).ok()? == message.len();
    (fits && flag <= 1).then(|| (body.slice(PREFIX_LEN..), flag == 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_retry_delay_round_trips_and_hostile_ones_are_harmless() {
        let delay = Duration::from_millis(1_500);
        let status = Status::with_retry(8, "full", delay);
        let status = Status::decode(status.encode_to_vec().as_slice()).unwrap();
        assert_eq!(status.retry_delay(), Some(delay));

        let negative = RetryInfo { retry_delay: Some(ProtoDuration { seconds: -5, nanos: i32::MIN }) };
        let detail = Any { type_url: RETRY_INFO.to_owned(), value: negative.encode_to_vec() };
        let status = Status { details: vec![detail], ..Status::default() };
        assert_eq!(status.retry_delay(), Some(Duration::ZERO));
        assert_eq!(Status::default().retry_delay(), None);
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_every_prefix_is_refused(message: Vec<u8>, compressed: bool) {
            let framed = frame(&message, compressed);
            let (back, flag) = unframe(&framed).unwrap();
            prop_assert_eq!(&*back, &*message);
            prop_assert_eq!(flag, compressed);
            for len in 0..framed.len() {
                prop_assert!(unframe(&framed.slice(..len)).is_none());
            }
        }

        #[test]
        fn no_bytes_panic(body: Vec<u8>) {
            let _ = unframe(&Bytes::from(body));
        }
    }
}
