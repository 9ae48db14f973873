//! The words of HTTP (RFC 9110 §5.6.2 calls them tokens): names of headers, parameters and subprotocols.

/// Whether this byte may stand in a word.
#[must_use]
pub fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether this is a word.
#[must_use]
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_word_byte)
}

#[cfg(test)]
mod tests {
    use super::is_word;

    #[test]
    fn a_word_ends_no_line_and_no_list() {
        assert!(is_word("chat.v2+json") && is_word("X-Token"));
        for text in ["", "a b", "a,b", "a\r\nb", "a:b", "\"a\"", "é", "a;b", "a=b"] {
            assert!(!is_word(text), "{text}");
        }
    }
}
