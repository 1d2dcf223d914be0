//! Tests of the codec of entries.

use super::*;
use crate::offset::NUMBER_MAX;
use proptest::prelude::*;

const TOPIC: TopicId = TopicId(7);
const GROUP: GroupId = GroupId(9);

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    assert_eq!(out.len() % ALIGNMENT, 0, "entries are padded");
    out
}

fn decoded(bytes: &[u8]) -> Entry<'_> {
    let (entry, next) = decode(bytes, 0).expect("decodes");
    assert_eq!(next, bytes.len());
    entry
}

proptest! {
    #[test]
    fn a_message_reads_back(
        key in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        tag in prop::option::of("\\PC{0,10}"),
        pairs in prop::collection::vec(("\\PC{0,10}", prop::collection::vec(any::<u8>(), 0..20)), 0..4),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        offset: u64,
        time: u64,
    ) {
        let content = Content {
            key: key.as_deref(),
            tag: tag.as_deref(),
            headers: &pairs,
            payload: &payload,
        };
        let bytes = encoded(|out| encode_message(out, TOPIC, offset, time, &content));
        prop_assert_eq!(bytes.len(), content.encoded_bytes());
        let Entry::Message(message) = decoded(&bytes) else { panic!("not a message") };
        prop_assert_eq!((message.topic, message.offset), (TOPIC, offset));
        prop_assert_eq!(message.timestamp_ms, time);
        prop_assert_eq!(message.parts.key(&bytes), key.as_deref());
        prop_assert_eq!(message.parts.tag(&bytes), tag.as_deref());
        let read: Vec<HeaderPair> = message
            .parts.headers(&bytes)
            .map(|(name, value)| (name.to_owned(), value.to_vec()))
            .collect();
        prop_assert_eq!(read, pairs);
        prop_assert_eq!(message.parts.payload(&bytes), &payload[..]);
        let of_topic = decode_message_of(&bytes, 0, TOPIC).expect("an entry");
        prop_assert_eq!(of_topic, (Some(message), bytes.len()));
        prop_assert_eq!(message_of(&bytes, 0, TOPIC), Some((message, bytes.len())));
    }

    #[test]
    fn progress_reads_back(
        delivered: u64,
        exact: bool,
        acked in prop::collection::vec((any::<u64>(), any::<u64>()), 0..5),
        attempts in prop::collection::vec((any::<u64>(), any::<u32>(), any::<u64>()), 0..5),
    ) {
        let progress = Progress {
            delivered,
            exact,
            acked: acked.into_iter().map(|(start, end)| start..end).collect(),
            attempts: attempts
                .into_iter()
                .map(|(offset, count, due_ms)| Attempt { offset, count, due_ms })
                .collect(),
        };
        let bytes = encoded(|out| encode_progress(out, GROUP, &progress));
        prop_assert_eq!(decoded(&bytes), Entry::Progress { group: GROUP, progress });
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        kind in 0..7_u8,
        attributes in 0..8_u8,
    ) {
        if bytes.len() > 8 {
            let length = u32::try_from(bytes.len()).expect("small");
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            (bytes[4], bytes[5]) = (kind, attributes);
        }
        let same = |topic| match decode_message_of(&bytes, 0, topic) {
            Ok((Some(message), next)) => Some((message, next)),
            _ => None,
        };
        for topic in [TOPIC, TopicId(0)] {
            prop_assert_eq!(message_of(&bytes, 0, topic), same(topic));
        }
        let number = u32::MAX;
        prop_assert!(Entries::new(&bytes, number).count() <= bytes.len() + 1);
    }
}

#[test]
fn topics_groups_and_seeks_read_back() {
    let bytes = encoded(|out| encode_topic(out, TOPIC, 5, 17, "orders"));
    let topic = Entry::Topic { id: TOPIC, next: 5, latest_ms: 17, name: "orders" };
    assert_eq!(decoded(&bytes), topic);
    for may_lag in [false, true] {
        let bytes = encoded(|out| encode_group(out, GROUP, TOPIC, 3, may_lag, "billing"));
        let group = Entry::Group { id: GROUP, topic: TOPIC, floor: 3, may_lag, name: "billing" };
        assert_eq!(decoded(&bytes), group);
    }
    let bytes = encoded(|out| encode_seek(out, GROUP, 12));
    assert_eq!(decoded(&bytes), Entry::Seek { group: GROUP, to: 12 });
}

#[test]
fn a_cut_entry_is_an_error_at_every_length() {
    let pairs = [("n".to_owned(), vec![1, 2, 3])];
    let content = Content { key: Some(b"k"), tag: Some("t"), headers: &pairs, payload: b"p" };
    let whole = encoded(|out| encode_message(out, TOPIC, 1, 2, &content));
    let bytes = content.unpadded_bytes();
    for cut in 0..bytes {
        assert!(decode(&whole[..cut], 0).is_err(), "cut to {cut}");
        // A shorter length inside is caught as well, unless only the payload shrinks.
        let mut shorter = whole.clone();
        shorter[..4].copy_from_slice(&length(cut).to_le_bytes());
        assert_eq!(decode(&shorter, 0).is_err(), cut < bytes - 1, "length {cut}");
    }
}

#[test]
fn an_unknown_kind_or_attribute_is_never_stepped_over() {
    let mut bytes = encoded(|out| encode_seek(out, GROUP, 12));
    bytes[4] = 99;
    assert!(matches!(decode(&bytes, 0), Err(Bad::Unknown { kind: 99, .. })));
    let mut bytes = encoded(|out| encode_message(out, TOPIC, 1, 2, &Content::default()));
    bytes[5] = 8;
    assert!(matches!(decode(&bytes, 0), Err(Bad::Unknown { attributes: 8, .. })));
}

#[test]
fn an_empty_payload_is_a_message() {
    let bytes = encoded(|out| encode_message(out, TOPIC, 0, 0, &Content::default()));
    let Entry::Message(message) = decoded(&bytes) else { panic!("not a message") };
    assert!(message.parts.payload(&bytes).is_empty());
}

/// What can stand behind a message of a topic with the offset 4.
#[derive(Clone, Debug)]
enum Next {
    Message { topic: u32, offset: u64, time: u64, keyed: bool },
    Seek,
    Damaged,
}

fn next_entry() -> impl Strategy<Value = Next> {
    let message = (0..8_u32, 0..8_u64, any::<u64>(), any::<bool>());
    prop_oneof![
        8 => message.prop_map(|(topic, offset, time, keyed)| {
            Next::Message { topic, offset, time, keyed }
        }),
        1 => Just(Next::Seek),
        1 => Just(Next::Damaged),
    ]
}

proptest! {
    #[test]
    fn a_run_is_what_reading_one_by_one_finds(
        following in prop::collection::vec(next_entry(), 0..12),
        entries_less in 0..2_u32,
        cut in 0..40_usize,
    ) {
        let (mut body, mut next) = (Vec::new(), 5);
        for entry in &following {
            let start = body.len();
            match entry {
                Next::Message { topic, offset, time, keyed } => {
                    let key = keyed.then_some(&b"key"[..]);
                    let content = Content { key, payload: b"payload", ..Content::default() };
                    let topic = TopicId(TOPIC.0 + u32::from(*topic == 7));
                    let offset = next + u64::from(*offset == 7);
                    encode_message(&mut body, topic, offset, *time, &content);
                    next += 1;
                }
                Next::Seek => encode_seek(&mut body, GROUP, 3),
                Next::Damaged => {
                    encode_seek(&mut body, GROUP, 3);
                    body[start + 4] = 99;
                }
            }
        }
        body.truncate(body.len().saturating_sub(cut));
        let entries = u32::try_from(following.len()).expect("few").saturating_sub(entries_less);
        let mut one_by_one = Entries::new(&body, entries);
        let (mut expected, mut at) = (Run::default(), 0);
        while let Some(Ok(Entry::Message(message))) = one_by_one.next()
            && (message.topic, message.offset) == (TOPIC, 5 + expected.messages)
        {
            expected.messages += 1;
            expected.latest_ms = expected.latest_ms.max(message.timestamp_ms);
            at = one_by_one.at;
        }
        let mut at_once = Entries::new(&body, entries);
        prop_assert_eq!(at_once.take_run(TOPIC, 5), expected);
        prop_assert_eq!(at_once.at, at);
        prop_assert_eq!(u64::from(entries - at_once.left), expected.messages);
    }
}

#[test]
fn a_run_ends_before_an_offset_that_no_message_can_have() {
    let mut body = Vec::new();
    for offset in [NUMBER_MAX - 1, NUMBER_MAX] {
        encode_message(&mut body, TOPIC, offset, 1, &Content::default());
    }
    let run = Entries::new(&body, 2).take_run(TOPIC, NUMBER_MAX - 1);
    assert_eq!(run, Run { messages: 1, latest_ms: 1 });
}
