//! Jobs and deliveries as a few bytes: what one release's writers put into a stream's field, where every field and every byte costs Redis and both sides.

mod delivery;
mod job;

pub use self::delivery::{DELIVERIES_FIELD, DELIVERIES_HEAD, Deliveries, put_delivery};
pub use self::job::{JOB_FIELD, put_job, take_job};

/// First byte of what is packed; another one is another release's.
const VERSION: u8 = 1;

/// Why bytes are not what was packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackedError {
    /// Written by a release that packs differently.
    #[error("it is packed by another release (version {0}); this one reads version {VERSION}")]
    Version(u8),
    /// It ends too soon, or a part of it is longer than it.
    #[error("it ends too soon")]
    Short,
    /// A part is not what stands there.
    #[error("its {0} can't be read")]
    Bad(&'static str),
}

/// Appends a number, seven bits to a byte, the lowest first.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

/// Appends a text with its length.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

/// Reads what was put, from its beginning on.
struct Parts<'packed> {
    rest: &'packed [u8],
}

impl<'packed> Parts<'packed> {
    fn byte(&mut self) -> Result<u8, PackedError> {
        let (byte, rest) = self.rest.split_first().ok_or(PackedError::Short)?;
        self.rest = rest;
        Ok(*byte)
    }

    fn version(&mut self) -> Result<(), PackedError> {
        match self.byte()? {
            VERSION => Ok(()),
            other => Err(PackedError::Version(other)),
        }
    }

    fn number(&mut self) -> Result<u64, PackedError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(PackedError::Bad("number"))
    }

    fn small(&mut self, part: &'static str) -> Result<u32, PackedError> {
        u32::try_from(self.number()?).map_err(|_| PackedError::Bad(part))
    }

    fn bytes(&mut self) -> Result<&'packed [u8], PackedError> {
        let length = usize::try_from(self.number()?).map_err(|_| PackedError::Short)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(PackedError::Short)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self, part: &'static str) -> Result<&'packed str, PackedError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| PackedError::Bad(part))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_and_texts_come_back(number in any::<u64>(), text in ".{0,300}") {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            put_text(&mut bytes, &text);
            let mut parts = Parts { rest: &bytes };
            prop_assert_eq!((parts.number(), parts.text("text")), (Ok(number), Ok(text.as_str())));
            prop_assert!(parts.rest.is_empty());
        }
    }

    #[test]
    fn what_ends_too_soon_or_goes_on_for_ever_is_an_error() {
        assert_eq!(Parts { rest: &[0x80] }.number(), Err(PackedError::Short));
        assert_eq!(Parts { rest: &[0xff; 11] }.number(), Err(PackedError::Bad("number")));
        assert_eq!(Parts { rest: &[3, b'a', b'b'] }.bytes(), Err(PackedError::Short));
        assert_eq!(Parts { rest: &[1, 0xff] }.text("name"), Err(PackedError::Bad("name")));
        assert_eq!(Parts { rest: &[9] }.version(), Err(PackedError::Version(9)));
    }
}
