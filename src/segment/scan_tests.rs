//! What the scan makes of frames that a disk put in the wrong place, one reason at a time.
//! Every header here has valid checksums, so that the check in question alone can notice.

use super::super::writer::{Start, marker};
use super::*;
use crate::storage::sim::SimDisk;
use crate::storage::write_full;

const BODY: [u8; 16] = [7; 16];

/// A segment of so many bytes, without frames.
fn segment(file_bytes: u64) -> Segment {
    let start = Start {
        log_id: 1,
        base: Position(1000),
        previous_base: None,
        sequence: 5,
        epoch: 2,
        chain: 77,
        created_ms: 0,
        salt: 9,
    };
    let head = start.head(&[], 0, file_bytes).expect("a small head");
    let file = SimDisk::new(1).storage().create("x").expect("creates");
    file.set_size(file_bytes).expect("extends");
    write_full(&*file, &head.encode(&[]), 0).expect("writes");
    Segment::new(file, "x".to_owned(), head, file_bytes)
}

/// The header of the first frame that belongs into the segment.
fn first() -> Header {
    Header {
        kind: Kind::Frame,
        body_bytes: 16,
        entries: 1,
        sequence: 5,
        position: Position(1000),
        epoch: 2,
        previous: 77,
        body_checksum: crc32fast::hash(&BODY),
        durable: Position(1000),
    }
}

/// Writes a frame or a marker where `at` lies; returns the identity.
fn put(segment: &Segment, at: Position, header: &Header) -> u32 {
    let mut bytes = [0; HEADER_BYTES + BODY.len()];
    let identity = header.encode(&mut bytes, segment.head.salt);
    bytes[HEADER_BYTES..].copy_from_slice(&BODY);
    let bytes = if header.body_bytes == 0 { &bytes[..HEADER_BYTES] } else { &bytes };
    write_full(&*segment.file, bytes, segment.file_at(at)).expect("writes");
    identity
}

fn scanned(segment: &Segment) -> Scan {
    scan(segment, None, |_| Ok(())).expect("reads")
}

fn check_stops_at_once(header: &Header, says: &str) {
    let segment = segment(4096);
    put(&segment, Position(1000), header);
    let scan = scanned(&segment);
    let Stop::Broken { expected, found } = &scan.stop else { panic!("{:?}", scan.stop) };
    assert!(format!("{expected}, {found}").contains(says), "{expected}, {found}");
    assert_eq!(scan.end, Position(1000));
    assert!(scan.rest_is_dirty);
}

/// Two frames, of which the second one names the first, and says that it is durable. Returns the
/// identity of the first.
fn put_two(segment: &Segment) -> u32 {
    let identity = put(segment, Position(1000), &first());
    let second = Header {
        sequence: 6,
        position: Position(1080),
        previous: identity,
        durable: Position(1080),
        ..first()
    };
    put(segment, Position(1080), &second);
    identity
}

#[test]
fn the_frame_that_belongs_is_taken() {
    let segment = segment(4096);
    put_two(&segment);
    let scan = scanned(&segment);
    assert_eq!((scan.end, scan.durable), (Position(1160), Position(1080)));
    assert_eq!((scan.stop, scan.rest_is_dirty), (Stop::Zero, false));
    assert_eq!((scan.tail.sequence, scan.tail.epoch), (7, 2));
}

#[test]
fn a_frame_of_another_position_is_not_taken() {
    check_stops_at_once(&Header { position: Position(1008), ..first() }, "position 1000, 1008");
}

#[test]
fn a_frame_that_follows_another_one_is_not_taken() {
    let torn = Header { previous: 78, durable: Position(900), ..first() };
    check_stops_at_once(&torn, "follows 0000004d");
}

#[test]
fn a_frame_that_follows_another_one_and_calls_it_durable_contradicts_what_is_there() {
    let segment = segment(4096);
    put(&segment, Position(1000), &Header { previous: 78, ..first() });
    let scan = scanned(&segment);
    let (expected, found) = ("a frame that follows 0000004d", "one that follows 0000004e");
    let (expected, found) = (expected.to_owned(), found.to_owned());
    assert_eq!(scan.stop, Stop::Contradicted { expected, found });
}

#[test]
fn a_frame_where_both_echoes_say_that_the_log_was_closed_contradicts_them() {
    let segment = segment(4096);
    put(&segment, Position(1000), &first());
    let tail = Tail { sequence: 5, chain: 77, epoch: 2 };
    let closed = marker(Kind::Closed, Position(1000), &tail, Position(1000));
    for (at, echo) in segment.layout.echoes_of(&closed) {
        let mut bytes = [0; HEADER_BYTES];
        echo.encode(&mut bytes, segment.head.salt);
        write_full(&*segment.file, &bytes, at).expect("writes");
    }
    let scan = scanned(&segment);
    assert_eq!(scan.end, Position(1000), "the frame is not taken");
    let (expected, found) = ("the end of a closed log".to_owned(), "a frame".to_owned());
    assert_eq!(scan.stop, Stop::Contradicted { expected, found });
}

#[test]
fn a_frame_of_another_number_is_not_taken() {
    check_stops_at_once(&Header { sequence: 6, ..first() }, "frame 5, frame 6");
}

#[test]
fn a_frame_that_is_longer_than_the_file_is_not_taken() {
    check_stops_at_once(&Header { body_bytes: 1 << 20, ..first() }, "a body of 1048576 bytes");
}

#[test]
fn a_frame_with_another_body_is_not_taken() {
    check_stops_at_once(&Header { body_checksum: 1, ..first() }, "body checksum 00000001");
}

#[test]
fn a_file_that_ends_within_a_header_ends_there() {
    let segment = segment(4096);
    put(&segment, Position(1000), &first());
    let cut = segment.file_at(Position(1080)) + 10;
    segment.file.set_size(cut).expect("cuts");
    let segment = Segment { file_bytes: cut, ..segment };
    let scan = scanned(&segment);
    assert_eq!((scan.end, scan.stop), (Position(1080), Stop::FileEnd));
}

#[test]
fn a_file_that_became_shorter_than_it_says_is_read_to_its_end() {
    let segment = segment(4096);
    put(&segment, Position(1000), &first());
    segment.file.set_size(segment.file_at(Position(1080))).expect("cuts");
    let scan = scanned(&segment);
    assert_eq!((scan.end, scan.stop), (Position(1080), Stop::FileEnd));
}

#[test]
fn a_scan_ends_where_it_is_told_to() {
    let segment = segment(4096);
    put(&segment, Position(1000), &first());
    let scan = scan(&segment, Some(Position(1000)), |_| Ok(())).expect("reads");
    assert_eq!(scan.end, Position(1000));
}

#[test]
fn a_gap_leads_to_where_the_log_goes_on() {
    let segment = segment(4096);
    let tail = Tail { sequence: 5, chain: 77, epoch: 2 };
    put(&segment, Position(1000), &marker(Kind::Gap, Position(1000), &tail, Position(1400)));
    // Two in a row are one: the first of them is where it begins.
    put(&segment, Position(1400), &marker(Kind::Gap, Position(1400), &tail, Position(1600)));
    let behind = Header { position: Position(1600), sequence: 9, previous: 1, ..first() };
    put(&segment, Position(1600), &behind);
    let scan = scanned(&segment);
    assert_eq!((scan.end, scan.gap), (Position(1680), Some(Position(1000))));
    assert_eq!(scan.tail.sequence, 10);
}

#[test]
fn a_gap_that_leads_out_of_the_file_or_backwards_is_not_followed() {
    let tail = Tail { sequence: 5, chain: 77, epoch: 2 };
    let out = marker(Kind::Gap, Position(1000), &tail, Position(u64::MAX));
    check_stops_at_once(&out, "a gap of at most");
    let segment = segment(4096);
    put(&segment, Position(1000), &marker(Kind::Gap, Position(1000), &tail, Position(1000)));
    assert_eq!(scanned(&segment).stop, Stop::Marker(Kind::Gap));
}

#[test]
fn a_scan_can_go_on_where_an_earlier_one_has_come_by() {
    let segment = segment(4096);
    let identity = put_two(&segment);
    let whole = scanned(&segment);
    let tail = Tail { sequence: 6, chain: identity, epoch: 2 };
    let mut visited = Vec::new();
    let from = Place { at: Position(1080), tail };
    let rest = scan_from(&segment, from, whole.end, |seen| {
        let Visited::Frame(header, _) = seen else { panic!("there is no gap") };
        visited.push(header.position);
        Ok(())
    });
    let rest = rest.expect("reads");
    assert_eq!((rest.end, rest.tail, visited), (whole.end, whole.tail, vec![Position(1080)]));
}
