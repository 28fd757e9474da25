//! Reads the sizes of the programs out of a BPF object.
//!
//! Only what that needs: 64-bit little-endian ELF, section headers and the symbol table
//! (System V ABI, chapters 4 "Object Files" and "Symbol Table").

/// One function of a BPF object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// The section, which says what the program attaches to; `.text` for functions that programs
    /// call.
    pub(crate) section: String,
    /// Name of the symbol.
    pub(crate) name: String,
    /// Number of 8-byte instruction slots.
    pub(crate) instructions: u64,
}

/// `ELFCLASS64`, `ELFDATA2LSB` behind the magic number.
const IDENT: &[u8] = b"\x7fELF\x02\x01";
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;
/// Bytes of one instruction slot (RFC 9669, section 3).
const INSTRUCTION: u64 = 8;

/// All functions, by section and name. `None` where the bytes are no such object.
pub(crate) fn functions(object: &[u8]) -> Option<Vec<Function>> {
    if !object.starts_with(IDENT) {
        return None;
    }
    let offset = usize::try_from(u64_at(object, 0x28)?).ok()?;
    let count = usize::from(u16_at(object, 0x3c)?);
    let names = usize::from(u16_at(object, 0x3e)?);
    let section = |index: usize| {
        let start = offset.checked_add(index.checked_mul(SECTION_HEADER)?)?;
        object.get(start..start.checked_add(SECTION_HEADER)?)
    };
    let content = |header: &[u8]| {
        let start = usize::try_from(u64_at(header, 0x18)?).ok()?;
        let size = usize::try_from(u64_at(header, 0x20)?).ok()?;
        object.get(start..start.checked_add(size)?)
    };
    let section_names = content(section(names)?)?;

    let mut functions = Vec::new();
    for index in 0..count {
        let header = section(index)?;
        if u32_at(header, 4)? != SHT_SYMTAB {
            continue;
        }
        let symbol_names = content(section(usize::try_from(u32_at(header, 0x28)?).ok()?)?)?;
        for symbol in content(header)?.chunks_exact(SYMBOL) {
            let home = usize::from(u16_at(symbol, 6)?);
            // Section 0 means that the function is defined elsewhere.
            if symbol.get(4)? & 0xf != STT_FUNC || home == 0 {
                continue;
            }
            functions.push(Function {
                section: text_at(section_names, u32_at(section(home)?, 0)?)?,
                name: text_at(symbol_names, u32_at(symbol, 0)?)?,
                instructions: u64_at(symbol, 16)? / INSTRUCTION,
            });
        }
    }
    functions.sort_by(|a, b| (&a.section, &a.name).cmp(&(&b.section, &b.name)));
    Some(functions)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

fn text_at(table: &[u8], at: u32) -> Option<String> {
    let rest = table.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object with one program of three instructions and one undefined function.
    fn object() -> Vec<u8> {
        let names = b"\0raw_tp/sys_enter\0enter\0elsewhere\0";
        let symbol = |name: u32, info: u8, home: u16, size: u64| {
            let mut symbol = Vec::new();
            symbol.extend(name.to_le_bytes());
            symbol.extend([info, 0]);
            symbol.extend(home.to_le_bytes());
            symbol.extend(0_u64.to_le_bytes());
            symbol.extend(size.to_le_bytes());
            symbol
        };
        let mut symbols = symbol(0, 0, 0, 0);
        symbols.extend(symbol(18, STT_FUNC | 0x10, 1, 24));
        symbols.extend(symbol(24, STT_FUNC | 0x10, 0, 0));

        let names_at = 64_u64;
        let symbols_at = names_at + names.len() as u64;
        let sections_at = symbols_at + symbols.len() as u64;
        let section = |name: u32, kind: u32, at: u64, size: u64, link: u32| {
            let mut header = Vec::new();
            header.extend(name.to_le_bytes());
            header.extend(kind.to_le_bytes());
            header.extend([0; 16]);
            header.extend(at.to_le_bytes());
            header.extend(size.to_le_bytes());
            header.extend(link.to_le_bytes());
            header.resize(SECTION_HEADER, 0);
            header
        };
        let mut object = IDENT.to_vec();
        object.resize(0x28, 0);
        object.extend(sections_at.to_le_bytes());
        object.resize(0x3c, 0);
        object.extend(4_u16.to_le_bytes());
        object.extend(2_u16.to_le_bytes());
        object.extend(names);
        object.extend(&symbols);
        object.extend(section(0, 0, 0, 0, 0));
        object.extend(section(1, 1, 64, 0, 0));
        object.extend(section(0, 3, names_at, names.len() as u64, 0));
        object.extend(section(0, SHT_SYMTAB, symbols_at, symbols.len() as u64, 2));
        object
    }

    #[test]
    fn defined_functions_are_listed_with_their_instructions() {
        let expected =
            Function { section: "raw_tp/sys_enter".to_owned(), name: "enter".to_owned(), instructions: 3 };
        assert_eq!(functions(&object()), Some(vec![expected]));
    }

    #[test]
    fn truncated_object_is_refused_at_every_length() {
        let object = object();
        for length in 0..object.len() {
            assert_eq!(functions(&object[..length]), None, "{length}");
        }
    }

    #[test]
    fn any_single_changed_byte_is_survived() {
        let object = object();
        for at in 0..object.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = object.clone();
                changed[at] = value;
                // Only that it returns: the answer may be right by luck.
                let _ = functions(&changed);
            }
        }
    }
}
