use fatfs::OemCpConverter;

/// The code page of short names and labels. No volume says which it is; 437 is what IBM's PC had, what Windows has in English,
/// and what Linux takes where it is not told.
#[derive(Debug)]
pub(super) struct CodePage;

pub(super) static CODE_PAGE: CodePage = CodePage;

/// The characters of the bytes from 0x80 on (Unicode Consortium, `CP437.TXT`).
const UPPER_HALF: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ\
     áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
     └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
     αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

impl CodePage {
    /// The characters of some bytes.
    pub(super) fn text(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|byte| self.decode(*byte)).collect()
    }
}

impl OemCpConverter for CodePage {
    fn decode(&self, byte: u8) -> char {
        match byte.checked_sub(0x80) {
            Some(index) => UPPER_HALF.chars().nth(index.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
            None => byte.into(),
        }
    }

    fn encode(&self, c: char) -> Option<u8> {
        let index = UPPER_HALF.chars().position(|upper| upper == c);
        match index {
            Some(index) => u8::try_from(index).ok()?.checked_add(0x80),
            None => u8::try_from(c).ok().filter(u8::is_ascii),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        for byte in 0..=255 {
            assert_eq!(CODE_PAGE.encode(CODE_PAGE.decode(byte)), Some(byte));
        }
        assert_eq!(CODE_PAGE.text(&[0x81, 0xe1, 0xff, b'a']), "üß\u{a0}a");
        assert_eq!(CODE_PAGE.encode('€'), None);
    }
}
