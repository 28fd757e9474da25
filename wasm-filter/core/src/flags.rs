//! Envoy's response flags.

/// Short forms in the order of `CoreResponseFlag` (envoy v1.36 and later,
/// `envoy/stream_info/stream_info.h`): the n-th flag is bit n of `response.flags`.
const SHORT: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

/// Appends the short forms of all flags in `mask`, in the order of their bits and separated by
/// commas; `-` for none. Flags that are not known are left out.
pub fn append_short(mask: u64, out: &mut Vec<u8>) {
    let start = out.len();
    for (bit, short) in SHORT.iter().enumerate() {
        if mask.checked_shr(u32::try_from(bit).unwrap_or(u32::MAX)).unwrap_or(0) & 1 == 0 {
            continue;
        }
        if out.len() > start {
            out.push(b',');
        }
        out.extend_from_slice(short.as_bytes());
    }
    if out.len() == start {
        out.push(b'-');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(mask: u64) -> String {
        let mut out = Vec::new();
        append_short(mask, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn flags_have_the_short_forms_of_access_logs() {
        for (mask, expected) in [
            (0, "-"),
            (0x1, "LH"),
            (0x2, "UH"),
            (0x4, "UT"),
            (0x20, "UF"),
            (0x100, "NR"),
            (0x4000, "DC"),
            (0x8020, "UF,URX"),
            (0x0100_0000, "NC"),
            (1 << 63, "-"),
        ] {
            assert_eq!(short(mask), expected, "{mask:#x}");
        }
        assert_eq!(short(u64::MAX).split(',').count(), SHORT.len());
    }
}
