//! ● WebSocket frames (RFC 6455 section 5) as far as a proxy needs them: where one ends and the
//! next begins, and how to say goodbye between two.

/// Follows one direction of a connection from frame to frame. What is in them is not looked at.
#[derive(Debug, Clone, Default)]
pub struct Frames {
    /// The header of the frame under way, without its masking key.
    header: [u8; Self::HEADER_MAX],
    /// Bytes of it that are there.
    known: u8,
    /// Bytes of masking key and payload still to come.
    left: u64,
    /// A Close frame has passed, or is about to.
    closing: bool,
    /// A header was impossible: no border is known any more.
    lost: bool,
}

/// Why a connection ends (RFC 6455 section 7.4.1 and the registry it began).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The peer goes away.
    GoingAway = 1001,
    /// The service restarts: the client may connect again at once.
    ServiceRestart = 1012,
}

const OPCODE_CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Payload of a control frame at the most (section 5.5), the code left out.
const REASON_MAX: usize = 123;

impl Frames {
    const HEADER_MAX: usize = 10;

    /// The next byte begins a frame.
    pub fn at_border(&self) -> bool {
        self.known == 0 && self.left == 0 && !self.lost
    }

    /// A Close frame came: nothing may follow it (section 5.5.1).
    pub fn closing(&self) -> bool {
        self.closing
    }

    /// Takes the next bytes of the direction, cut anywhere.
    pub fn advance(&mut self, bytes: &[u8]) {
        self.walk(bytes);
    }

    /// How many of the next bytes may go on so that the last of them ends a frame: 0 at a border
    /// where no whole frame follows, `None` if none of them ends the frame under way.
    pub fn last_border(&self, bytes: &[u8]) -> Option<usize> {
        let mut probe = self.clone();
        let found = probe.walk(bytes);
        found.or_else(|| self.at_border().then_some(0))
    }

    /// Takes `bytes`; where the last frame of them ended.
    fn walk(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut border = None;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty() && !self.lost) {
            if self.left > 0 {
                let taken = usize::try_from(self.left).map_or(rest.len(), |l| l.min(rest.len()));
                self.left -= taken as u64;
                at += taken;
            } else {
                self.take_header(rest[0]);
                at += 1;
            }
            if self.at_border() {
                border = Some(at);
            }
        }
        border
    }

    /// One more byte of a header; with its last one, the length is known.
    fn take_header(&mut self, byte: u8) {
        let Some(place) = self.header.get_mut(usize::from(self.known)) else {
            self.lost = true;
            return;
        };
        *place = byte;
        self.known += 1;
        let length = self.header[1] & !MASKED;
        let needed = match length {
            _ if self.known < 2 => return,
            126 => 4,
            127 => 10,
            _ => 2,
        };
        if self.known < needed {
            return;
        }
        let [_, _, long @ ..] = self.header;
        let payload = match length {
            126 => u64::from(u16::from_be_bytes([long[0], long[1]])),
            127 => u64::from_be_bytes(long),
            short => short.into(),
        };
        // The most significant bit must be 0 (section 5.2).
        self.lost = payload > u64::MAX / 2;
        let key = if self.header[1] & MASKED == 0 { 0 } else { 4 };
        self.left = payload.saturating_add(key);
        self.closing |= self.header[0] & 0x0f == OPCODE_CLOSE;
        self.known = 0;
    }
}

/// Appends a Close frame. `mask`: the key, which a client's frames must have and a server's must
/// not (section 5.1). Of a longer reason the first 123 bytes are sent; it must be ASCII.
pub fn close_frame(out: &mut Vec<u8>, code: Code, reason: &str, mask: Option<[u8; 4]>) {
    let reason = reason.as_bytes();
    let reason = &reason[..reason.len().min(REASON_MAX)];
    let length = reason.len() as u8 + 2;
    out.extend_from_slice(&[FINAL | OPCODE_CLOSE, length | mask.map_or(0, |_| MASKED)]);
    out.extend_from_slice(mask.as_ref().map_or(&[], |key| key));
    let payload = (code as u16).to_be_bytes().into_iter().chain(reason.iter().copied());
    let key = mask.unwrap_or_default();
    out.extend(payload.zip(key.into_iter().cycle()).map(|(byte, key)| byte ^ key));
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, payload: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { MASKED } else { 0 };
        let mut frame = vec![FINAL | opcode];
        match payload {
            0..126 => frame.push(payload as u8 | bit),
            126..65_536 => {
                frame.push(126 | bit);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(127 | bit);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        // 0x88 in payload and key looks like the head of a Close frame.
        frame.resize(frame.len() + payload + if masked { 4 } else { 0 }, 0x88);
        frame
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let size = prop_oneof![0..130_usize, 65_530..65_540_usize];
        (0..3_u8, size, any::<bool>()).prop_map(|(opcode, size, mask)| frame(opcode, size, mask))
    }

    proptest! {
        #[test]
        fn borders_are_found_however_the_bytes_are_cut(
            frames in vec(any_frame(), 1..6),
            cuts in vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let bytes = frames.concat();
            let mut ends = vec![0];
            frames.iter().for_each(|frame| ends.push(ends[ends.len() - 1] + frame.len()));
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let (mut tracker, mut at) = (Frames::default(), 0);
            for cut in cuts {
                let border = ends.iter().filter(|end| (at..=cut).contains(*end)).max();
                let said = tracker.last_border(&bytes[at..cut]);
                prop_assert_eq!(said, border.map(|end| end - at));
                tracker.advance(&bytes[at..cut]);
                at = cut;
                prop_assert_eq!(tracker.at_border(), ends.contains(&at));
            }
            prop_assert!(!tracker.closing());
        }

        #[test]
        fn any_bytes_are_followed_alike_at_once_and_one_by_one(bytes in vec(any::<u8>(), 0..300)) {
            let (mut whole, mut single) = (Frames::default(), Frames::default());
            whole.advance(&bytes);
            bytes.chunks(1).for_each(|byte| single.advance(byte));
            prop_assert_eq!(whole.at_border(), single.at_border());
            prop_assert_eq!(whole.closing(), single.closing());
        }
    }

    #[test]
    fn a_close_frame_is_recognized_and_ends_at_a_border() {
        for mask in [None, Some([1, 2, 3, 4])] {
            let mut out = Vec::new();
            close_frame(&mut out, Code::ServiceRestart, "moved", mask);
            let mut frames = Frames::default();
            frames.advance(&out);
            assert!(frames.at_border() && frames.closing());
        }
    }

    #[test]
    fn a_close_frame_says_code_and_reason_masked_only_with_a_key() {
        let mut plain = Vec::new();
        close_frame(&mut plain, Code::ServiceRestart, "moved", None);
        assert_eq!(plain, b"\x88\x07\x03\xf4moved");
        let mut masked = Vec::new();
        close_frame(&mut masked, Code::GoingAway, "", Some([0xff, 0, 0xff, 0]));
        assert_eq!(masked, [0x88, 0x82, 0xff, 0, 0xff, 0, 0x03 ^ 0xff, 0xe9]);
        let mut long = Vec::new();
        close_frame(&mut long, Code::GoingAway, &"x".repeat(500), None);
        assert_eq!((long.len(), long[1]), (127, 125));
    }

    #[test]
    fn an_impossible_length_leaves_no_border_ever() {
        let mut frames = Frames::default();
        frames.advance(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        assert!(!frames.at_border());
        assert_eq!(frames.last_border(&frame(1, 5, false)), None);
    }
}
