//! The `tracestate` header: W3C Trace Context level 2, section 3.3.
//!
//! ```
//! use meshweft_telemetry::tracestate;
//!
//! let mut state = tracestate::parse([&b"rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"[..]])?;
//! state.insert("congo", "ucfJifl5GOE")?;
//! assert_eq!(state.as_str(), "congo=ucfJifl5GOE,rojo=00f067aa0ba902b7");
//! # Ok::<(), meshweft_telemetry::Error>(())
//! ```

use crate::error::{Error, Part};
use std::borrow::Cow;

/// Name of the header, in lowercase.
pub const NAME: &str = "tracestate";
/// Most members of a list, and most headers that are not blank. Section 3.3.2: "There can be a
/// maximum of 32 list-members in a list."
pub const MAX_MEMBERS: usize = 32;
/// Longest key, in bytes (section 3.3.2.2.1).
pub const MAX_KEY_LEN: usize = 256;
/// Longest value, in bytes (section 3.3.2.2.2).
pub const MAX_VALUE_LEN: usize = 256;
/// Most bytes of all `tracestate` headers of a request together that are read. The longest list
/// that the grammar allows has 16447; the rest is left for whitespace and empty members.
pub const MAX_LEN: usize = 32 * 1024;

/// A list of members that obeys the grammar, without whitespace around its members, empty members
/// and duplicate keys.
///
/// Borrows the header where that was a single one of this form already, so that the usual request
/// allocates nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TraceState<'a> {
    list: Cow<'a, str>,
}

impl TraceState<'_> {
    /// The list as the value of one header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.list
    }

    /// Whether there is no member. Section 3.3.2 asks not to send such a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Keys and values, in the order of the header.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        // An empty list splits into one member without `=`, which is left out.
        self.list.split(',').filter_map(|member| member.split_once('='))
    }

    /// The value of this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(other, value)| (other == key).then_some(value))
    }

    /// Puts a member at the front of the list (section 3.5: "Modified keys MUST be moved to the
    /// beginning"). An earlier member with this key goes; so does the last one where there would
    /// be more than [`MAX_MEMBERS`] (3.3.2: "the right-most list-member should be removed").
    ///
    /// # Errors
    /// [`Error::Malformed`] where the key or the value violates the grammar; the list stays as it
    /// was.
    pub fn insert(&mut self, key: &str, value: &str) -> Result<(), Error> {
        check_key(key)?;
        check_value(value)?;
        let mut list = String::with_capacity(key.len() + value.len() + 2 + self.list.len());
        list.push_str(key);
        list.push('=');
        list.push_str(value);
        for (other, value) in self.iter().filter(|(other, _)| *other != key).take(MAX_MEMBERS - 1) {
            list.push(',');
            list.push_str(other);
            list.push('=');
            list.push_str(value);
        }
        self.list = Cow::Owned(list);
        Ok(())
    }

    /// The list on its own, without the header that it may borrow.
    #[must_use]
    pub fn into_owned(self) -> TraceState<'static> {
        TraceState { list: Cow::Owned(self.list.into_owned()) }
    }
}

/// Parses all `tracestate` headers of a request, in their order, as one list. No header at all
/// and headers without members give an empty list.
///
/// A list is taken as a whole or not at all, so that no half of somebody's state is handed on.
///
/// # Errors
/// [`Error::Malformed`], [`Error::DuplicateKey`], [`Error::TooManyMembers`], and
/// [`Error::TooLarge`] where the headers together exceed [`MAX_LEN`]. Section 3.3: "failure to
/// parse tracestate MUST NOT affect the parsing of traceparent."
pub fn parse<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<TraceState<'a>, Error> {
    // Keys with their members, in the order of the list.
    let mut members = [("", ""); MAX_MEMBERS];
    let mut count = 0;
    let mut headers = 0;
    let mut bytes = 0_usize;
    // The one header that all members come from, if it is one.
    let mut source = None;

    // "When receiving multiple tracestate header fields, they MUST be combined into a single
    // header according to RFC 9110", that is, joined by commas.
    for value in values {
        bytes = bytes.saturating_add(value.len()).saturating_add(1);
        if bytes > MAX_LEN + 1 {
            return Err(Error::TooLarge { header: NAME, limit: MAX_LEN });
        }
        let value = str::from_utf8(value).map_err(|_| malformed(Part::Member))?;
        let value = trim(value);
        if value.is_empty() {
            continue;
        }
        headers += 1;
        if headers > MAX_MEMBERS {
            return Err(Error::TooManyMembers);
        }
        source = (headers == 1).then_some(value);

        // "Spaces and horizontal tabs surrounding list-members are ignored. [...] Empty and
        // whitespace-only list members are allowed."
        for member in value.split(',').map(trim).filter(|member| !member.is_empty()) {
            let (key, value) = member.split_once('=').ok_or(malformed(Part::Member))?;
            check_key(key)?;
            check_value(value)?;
            if members.iter().take(count).any(|(other, _)| *other == key) {
                return Err(Error::DuplicateKey);
            }
            *members.get_mut(count).ok_or(Error::TooManyMembers)? = (key, member);
            count += 1;
        }
    }

    let members = || members.iter().take(count).map(|(_, member)| *member);
    let len = members().map(|member| member.len() + 1).sum::<usize>().saturating_sub(1);
    let list = match source {
        // Nothing was dropped, so the header is the list.
        Some(header) if header.len() == len => Cow::Borrowed(header),
        _ => {
            let mut list = String::with_capacity(len);
            for member in members() {
                if !list.is_empty() {
                    list.push(',');
                }
                list.push_str(member);
            }
            Cow::Owned(list)
        }
    };
    Ok(TraceState { list })
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// `key = ( lcalpha / DIGIT ) 0*255 ( keychar )`,
/// `keychar = lcalpha / DIGIT / "_" / "-"/ "*" / "/" / "@"`
fn check_key(key: &str) -> Result<(), Error> {
    let starts_well = key.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
    let is_keychar = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    if starts_well && key.len() <= MAX_KEY_LEN && key.bytes().all(is_keychar) {
        Ok(())
    } else {
        Err(malformed(Part::Key))
    }
}

/// `value = 0*255(chr) nblk-chr`, `nblk-chr = %x21-2B / %x2D-3C / %x3E-7E`,
/// `chr = %x20 / nblk-chr`
fn check_value(value: &str) -> Result<(), Error> {
    let is_chr = |byte| matches!(byte, 0x20..=0x2b | 0x2d..=0x3c | 0x3e..=0x7e);
    let ends_well = value.bytes().next_back().is_some_and(|last| last != b' ');
    if ends_well && value.len() <= MAX_VALUE_LEN && value.bytes().all(is_chr) {
        Ok(())
    } else {
        Err(malformed(Part::Value))
    }
}

const fn malformed(part: Part) -> Error {
    Error::Malformed { header: NAME, part }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse<'a>(values: &[&'a str]) -> Result<TraceState<'a>, Error> {
        super::parse(values.iter().map(|value| value.as_bytes()))
    }

    fn list(values: &[&str]) -> String {
        parse(values).unwrap().as_str().to_owned()
    }

    fn borrows(state: &TraceState<'_>) -> bool {
        matches!(state.list, Cow::Borrowed(_))
    }

    fn members(count: usize) -> String {
        (0..count).map(|n| format!("bar{n:02}={n:02}")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn members_keep_their_order() {
        let state = parse(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]).unwrap();
        let members: Vec<_> = state.iter().collect();
        assert_eq!(members, [("rojo", "00f067aa0ba902b7"), ("congo", "t61rcWkgMzE")]);
        assert_eq!(state.get("congo"), Some("t61rcWkgMzE"));
        assert_eq!(state.get("cong"), None);
    }

    #[test]
    fn several_headers_are_one_list() {
        // "When receiving multiple tracestate header fields, they MUST be combined".
        assert_eq!(list(&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"]), "foo=1,bar=2,rojo=1,congo=2,baz=3");
    }

    #[test]
    fn empty_headers_and_members_are_dropped() {
        // "Vendors MUST accept empty tracestate headers".
        for empty in [&[][..], &[""], &["", " \t"], &[","], &[" ,\t,,"]] {
            let state = parse(empty).unwrap();
            assert!(state.is_empty());
            assert_eq!(state.iter().count(), 0);
        }
        assert_eq!(list(&["foo=1", ""]), "foo=1");
        assert_eq!(list(&["", "foo=1"]), "foo=1");
        assert_eq!(list(&[",foo=1,, \t,bar=2,"]), "foo=1,bar=2");
    }

    #[test]
    fn whitespace_around_members_is_dropped() {
        for value in
            ["foo=1 \t , \t bar=2, \t baz=3", "foo=1\t \t,\t \tbar=2,\t \tbaz=3", "\t foo=1,bar=2,baz=3 \t"]
        {
            assert_eq!(list(&[value]), "foo=1,bar=2,baz=3");
        }
        // "All leading spaces MUST be preserved as part of the value."
        assert_eq!(parse(&["foo=  a b "]).unwrap().get("foo"), Some("  a b"));
    }

    #[test]
    fn a_clean_header_is_borrowed_and_others_are_copied() {
        assert!(borrows(&parse(&["foo=1,bar=2"]).unwrap()));
        assert!(borrows(&parse(&[" foo=1,bar=2\t", ""]).unwrap()));
        assert!(!borrows(&parse(&["foo=1, bar=2"]).unwrap()));
        assert!(!borrows(&parse(&["foo=1,bar=2,"]).unwrap()));
        assert!(!borrows(&parse(&["foo=1", "bar=2"]).unwrap()));
        assert!(!borrows(&parse(&["foo=1"]).unwrap().into_owned()));
        // The second header has as many bytes as the list, but is not the list.
        assert_eq!(list(&["foo=1", ",,,,,,bar=222222"]), "foo=1,bar=222222");
        assert_eq!(list(&[",,,,,,", "f=1"]), "f=1");
    }

    #[test]
    fn two_members_with_one_key_are_refused() {
        for values in [&["foo=1,foo=1"][..], &["foo=1,foo=2"], &["foo=1", "foo=1"], &["foo=1", "bar=2,foo=2"]]
        {
            assert_eq!(parse(values), Err(Error::DuplicateKey), "{values:?}");
        }
    }

    #[test]
    fn every_allowed_character_is_allowed() {
        let key = "abcdefghijklmnopqrstuvwxyz0123456789_-*/";
        let value: String = (' '..='~').filter(|c| !",=".contains(*c)).collect();
        for key in [key.to_owned(), format!("{key}@a-z0-9_-*/")] {
            assert_eq!(parse(&[&format!("{key}={value}")]).unwrap().get(&key), Some(value.as_str()));
        }
    }

    #[test]
    fn keys_follow_the_grammar_of_level_2() {
        // "A key MUST begin with a lowercase letter or a digit and contain up to 256 characters".
        let long = "z".repeat(256);
        let tenant = format!("{}@{}", "t".repeat(242), "v".repeat(13));
        for key in ["0", "1a-2f@foo", "foo@", "foo@@bar", "foo@bar@baz", "t@vvvvvvvvvvvvvvv", &long, &tenant]
        {
            assert_eq!(list(&["foo=1", &format!("{key}=1")]), format!("foo=1,{key}=1"));
        }
        let too_long = "z".repeat(257);
        for key in ["foo ", "FOO", "foo.bar", "@foo", "_a", "-a", "*a", "/a", "", "fo\u{f6}", &too_long] {
            let error = Error::Malformed { header: NAME, part: Part::Key };
            assert_eq!(parse(&["bar=2", &format!("{key}=1")]), Err(error), "{key:?}");
        }
    }

    #[test]
    fn values_follow_the_grammar() {
        let long = "v".repeat(256);
        assert_eq!(list(&[&format!("foo={long}")]), format!("foo={long}"));
        let too_long = "v".repeat(257);
        for value in ["bar=baz", "", " ", "\u{e9}", "a\tb", "a\nb", "\x7f", "=", &too_long] {
            let error = Error::Malformed { header: NAME, part: Part::Value };
            assert_eq!(parse(&[&format!("foo={value},bar=3")]), Err(error), "{value:?}");
        }
    }

    #[test]
    fn what_is_no_member_is_refused() {
        let error = Err(Error::Malformed { header: NAME, part: Part::Member });
        assert_eq!(parse(&["foo=1,bar"]), error);
        assert_eq!(super::parse([&b"foo=\xff"[..]]), error);
    }

    #[test]
    fn members_headers_and_bytes_are_limited() {
        // "There can be a maximum of 32 list-members in a list."
        assert_eq!(parse(&[&members(32)]).unwrap().iter().count(), 32);
        assert_eq!(parse(&[&members(33)]), Err(Error::TooManyMembers));
        assert_eq!(parse(&[&members(32), "foo=1"]), Err(Error::TooManyMembers));
        assert_eq!(list(&[&members(32), ","]), members(32));
        assert_eq!(parse(&[","; 33]), Err(Error::TooManyMembers));
        assert!(parse(&[""; 33]).unwrap().is_empty());

        let longest = ",".repeat(MAX_LEN - 5) + "foo=1";
        assert_eq!(list(&[&longest]), "foo=1");
        let error = Err(Error::TooLarge { header: NAME, limit: MAX_LEN });
        assert_eq!(parse(&[&(longest.clone() + ",")]), error);
        assert_eq!(parse(&[&longest, ""]), error);
    }

    #[test]
    fn the_longest_list_of_the_grammar_parses() {
        let list: Vec<_> = (0..32).map(|n| format!("{n:0>256}={}", "v".repeat(256))).collect();
        let list = list.join(",");
        assert_eq!(list.len(), 16447);
        assert!(borrows(&parse(&[&list]).unwrap()));
    }

    #[test]
    fn an_inserted_member_stands_first_and_once() {
        // "the entry would be rewritten to only include the most recent position".
        let mut state = parse(&["rojo=1,congo=2,baz=3"]).unwrap();
        state.insert("congo", "4").unwrap();
        assert_eq!(state.as_str(), "congo=4,rojo=1,baz=3");
        let mut empty = TraceState::default();
        empty.insert("a", " b").unwrap();
        assert_eq!(empty.as_str(), "a= b");
    }

    #[test]
    fn the_last_member_makes_room_for_the_33rd() {
        let header = members(32);
        let mut state = parse(&[&header]).unwrap();
        state.insert("bar31", "x").unwrap();
        assert_eq!(state.iter().count(), 32);
        state.insert("new", "x").unwrap();
        assert_eq!(state.as_str(), format!("new=x,bar31=x,{}", members(30)));
    }

    #[test]
    fn an_invalid_member_is_not_inserted() {
        let mut state = parse(&["a=1"]).unwrap();
        for (key, value) in [("A", "1"), ("", "1"), ("b", ""), ("b", "1 "), ("b", "1,c=2"), ("b,c", "1")] {
            assert!(state.insert(key, value).is_err());
        }
        assert_eq!(state.as_str(), "a=1");
    }

    fn member() -> impl Strategy<Value = String> {
        "[a-z0-9][a-z0-9_*/@-]{0,6}= {0,2}[!-+--<>-~]{1,6}|[ \t]{0,2}"
    }

    proptest! {
        #[test]
        fn no_bytes_panic(values: Vec<Vec<u8>>) {
            let _ = super::parse(values.iter().map(Vec::as_slice));
        }

        #[test]
        fn a_parsed_list_is_a_header_that_parses_to_itself(
            headers in prop::collection::vec(prop::collection::vec(member(), 0..6).prop_map(|m| m.join(" ,")), 0..4)
        ) {
            let values: Vec<_> = headers.iter().map(String::as_str).collect();
            let parsed = parse(&values);
            if let Ok(state) = &parsed {
                let again = parse(&[state.as_str()]).unwrap();
                prop_assert!(again.is_empty() || borrows(&again));
                prop_assert_eq!(&again, state);
                for (key, value) in state.iter() {
                    prop_assert_eq!(state.get(key), Some(value));
                }
            }
            // Where the header is cut makes no difference.
            let joined = headers.join(",");
            prop_assert_eq!(parse(&[&joined]), parsed);
        }

        #[test]
        fn inserting_keeps_the_list_valid(n in 0_usize..33, key in "[a-z0-9@]{1,3}", value in "[ -~]{0,3}") {
            let header = members(n);
            let mut state = parse(&[&header]).unwrap();
            let inserted = state.insert(&key, &value);
            let parsed = parse(&[state.as_str()]).unwrap();
            prop_assert_eq!(&parsed, &state);
            match inserted {
                Ok(()) => prop_assert_eq!(parsed.iter().next(), Some((key.as_str(), value.as_str()))),
                Err(_) => prop_assert_eq!(parsed.as_str(), &header),
            }
        }
    }
}
