//! What only the kernel can show: seals, memory given back, gathered writes, packets with descriptors, and doorbells
//! that a worker tampers with.

#![cfg(not(any(loom, miri)))]
// One attempt at a mapping that must be refused.
#![allow(unsafe_code)]

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use asya_ring::peer::Peer;
use asya_ring::socket::{Listener, MAX_PACKET, Received, Socket};
use asya_ring::{
    Arena, ArenaConfig, CallLimits, Extent, InputRegion, Link, MAX_PIECES, OutputRegion, PAGE, Piece, PollError,
    Violation, write_gathered,
};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

const LIMITS: CallLimits = CallLimits { max_calls: 3, max_pinned: 0, max_result_bytes: 1 << 20 };
const MIB: u64 = 1 << 20;

fn link_over(input: &InputRegion) -> (OutputRegion, Link) {
    let output = OutputRegion::create(LIMITS, 8 * MIB).expect("output");
    let link = Link::new(input, &output).expect("link");
    (output, link)
}

fn owned(link: &Link) -> [OwnedFd; 5] {
    link.descriptors().map(|fd| fd.try_clone_to_owned().expect("dup"))
}

#[test]
fn only_this_process_writes_the_input() {
    let mut input = InputRegion::create(1, LIMITS, MIB).expect("input");
    let (_output, link) = link_over(&input);
    let [fd, ..] = owned(&link);
    assert_eq!(rustix::io::write(&fd, b"x"), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(&fd, 1 << 40), Err(Errno::PERM));
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: it is refused; were it not, one more mapping at an address of the kernel's choice harms nobody.
    let mapped = unsafe { mmap(std::ptr::null_mut(), 4096, rights, MapFlags::SHARED, &fd, 0) };
    assert_eq!(mapped.err(), Some(Errno::PERM));
    // Opened anew through /proc, as a worker might: no better.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let again = rustix::fs::open(path, OFlags::RDWR, rustix::fs::Mode::empty()).expect("open");
    assert_eq!(rustix::io::write(&again, b"x"), Err(Errno::PERM));
    // This process's own mapping, which is older than the seal, goes on.
    let slots = input.slots();
    input.slice_mut(slots).expect("slots").fill(7);
    assert!(input.slice(slots).expect("slots").iter().all(|&byte| byte == 7));
}

/// Why input memory stays once touched: the seal that keeps workers from writing refuses holes to everybody.
#[test]
fn a_sealed_input_cannot_be_punched() {
    let input = InputRegion::create(1, LIMITS, MIB).expect("input");
    let (_output, link) = link_over(&input);
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(rustix::fs::fallocate(link.descriptors()[0], hole, 0, PAGE), Err(Errno::PERM));
    // So its arena keeps everything warm, in a space that is its budget.
    let mut arena = input.arena(PAGE, 4);
    assert_eq!(arena.budget_bytes(), input.slots().len);
    let all = arena.alloc(input.slots().len / 2).expect("room");
    arena.free(all).expect("allocated");
    assert_eq!(arena.next_punch(), None);
}

#[test]
fn memory_is_backed_when_touched_and_given_back_when_punched() {
    let mut input = InputRegion::create(1, LIMITS, 1 << 40).expect("a terabyte costs nothing");
    assert_eq!(input.resident_bytes().expect("fstat"), 0);
    let small = input.arena(PAGE, 16).small_slots();
    input.prefault(small).expect("slots");
    assert_eq!(input.resident_bytes().expect("fstat"), 16 * PAGE);

    let (output, link) = link_over(&input);
    let mut peer = Peer::beside(&link).expect("peer");
    let config = ArenaConfig {
        space: output.rooms(),
        small_bytes: PAGE,
        small_slots: 4,
        budget_bytes: 4 * MIB,
        warm_bytes: MIB,
    };
    let mut rooms = Arena::new(config);
    let room = rooms.alloc(3 * MIB).expect("room");
    peer.write(room.offset, &vec![1; 3 * MIB as usize]).expect("in range");
    assert_eq!(output.resident_bytes().expect("fstat"), 3 * MIB);
    rooms.free(room).expect("allocated");
    while let Some(hole) = rooms.next_punch() {
        output.punch(hole).expect("punch");
    }
    assert_eq!(output.resident_bytes().expect("fstat"), MIB, "what may stay warm");
    let mut bytes = Vec::new();
    output.copy_out(room, &mut bytes).expect("in range");
    assert!(bytes[..MIB as usize].iter().all(|&byte| byte == 1) && bytes[MIB as usize..].iter().all(|&b| b == 0));
}

#[test]
fn a_gathered_write_takes_pieces_from_everywhere() {
    let mut input = InputRegion::create(1, LIMITS, MIB).expect("input");
    let (output, link) = link_over(&input);
    let mut peer = Peer::beside(&link).expect("peer");
    let (slot, room) = (Extent { len: 5, ..input.slots() }, Extent { len: 6, ..output.rooms() });
    input.slice_mut(slot).expect("slot").copy_from_slice(b"input");
    peer.write(room.offset, b"output").expect("in range");
    let (here, mut there) = UnixStream::pair().expect("pair");
    let pieces = [
        Piece::Bytes(b"head "),
        Piece::Raw(input.raw(slot).expect("in range")),
        Piece::Bytes(b""),
        Piece::Raw(output.raw(room).expect("in range").skip(3)),
        Piece::Raw(output.raw(room).expect("in range").skip(9)),
    ];
    assert_eq!(write_gathered(here.as_fd(), pieces).expect("write"), 13);
    let mut bytes = [0; 13];
    there.read_exact(&mut bytes).expect("read");
    assert_eq!(&bytes, b"head inputput");

    // More pieces than the kernel takes: the first 1,024.
    let many = vec![Piece::Bytes(b"x"); MAX_PIECES + 10];
    assert_eq!(write_gathered(here.as_fd(), many).expect("write"), MAX_PIECES);

    // A full socket says so, although it is a blocking one, and what was taken can be skipped.
    let large = Extent { len: 8 * MIB, ..output.rooms() };
    let (mut left, mut writes) = (output.raw(large).expect("in range"), 0);
    loop {
        match write_gathered(here.as_fd(), [Piece::Raw(left)]) {
            Ok(taken) => left = left.skip(taken),
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        writes += 1;
    }
    assert!(writes > 0 && !left.is_empty());

    // A peer that is gone is an error, not a signal.
    drop(there);
    assert_eq!(write_gathered(here.as_fd(), [Piece::Bytes(b"x")]).expect_err("gone").kind(), ErrorKind::BrokenPipe);
}

#[test]
fn packets_carry_descriptors() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("asya-sidecar.sock");
    assert_eq!(Socket::connect(&path).expect_err("nobody").kind(), ErrorKind::NotFound);
    let listener = Listener::bind(&path).expect("bind");
    assert_eq!(listener.accept().expect_err("nobody yet").kind(), ErrorKind::WouldBlock);
    assert_eq!(Listener::bind(&path).expect_err("answered").kind(), ErrorKind::AddrInUse);
    listener.accept().expect("that was the second one, asking");

    let client = Socket::connect(&path).expect("connect");
    let server = listener.accept().expect("accept");
    let (mut packet, mut descriptors) = (Vec::new(), Vec::new());
    assert_eq!(server.recv(&mut packet, &mut descriptors).expect_err("empty").kind(), ErrorKind::WouldBlock);

    let (ours, theirs) = UnixStream::pair().expect("pair");
    client.send(b"two", &[theirs.as_fd(), theirs.as_fd()]).expect("send");
    client.send(&vec![b'x'; MAX_PACKET], &[]).expect("send the largest");
    assert_eq!(server.recv(&mut packet, &mut descriptors).expect("recv"), Received::Packet(3));
    assert_eq!((packet.as_slice(), descriptors.len()), (&b"two"[..], 2));
    let flags = rustix::io::fcntl_getfd(&descriptors[0]).expect("fcntl");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(server.recv(&mut packet, &mut descriptors).expect("recv"), Received::Packet(MAX_PACKET));

    // Too much of either is refused by the sender here, and by the receiver from elsewhere.
    let six = [ours.as_fd(); 6];
    assert_eq!(client.send(b"six", &six).expect_err("six").kind(), ErrorKind::InvalidInput);
    assert_eq!(client.send(&vec![0; MAX_PACKET + 1], &[]).expect_err("large").kind(), ErrorKind::InvalidInput);
    rustix::net::send(&client, &vec![0; MAX_PACKET + 1], rustix::net::SendFlags::empty()).expect("send");
    assert_eq!(server.recv(&mut packet, &mut descriptors).expect_err("large").kind(), ErrorKind::InvalidData);
    send_descriptors(&client, &six).expect("send");
    assert_eq!(server.recv(&mut packet, &mut descriptors).expect_err("six").kind(), ErrorKind::InvalidData);
    assert_eq!(descriptors.len(), 2, "none of the six is kept");

    drop(client);
    assert_eq!(server.recv(&mut packet, &mut descriptors).expect("end"), Received::End);

    // What a dead process leaves behind is replaced, and what a live one leaves is nothing.
    let left = folder.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).expect("bind"));
    drop(Listener::bind(&left).expect("replaced"));
    assert!(!left.exists());
}

fn send_descriptors(socket: &Socket, descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(6))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    Ok(sendmsg(socket, &[io::IoSlice::new(b"six")], &mut control, SendFlags::empty())?)
}

#[test]
fn a_worker_that_tampers_with_doorbells_cannot_hang_the_sidecar() {
    let input = InputRegion::create(1, LIMITS, MIB).expect("input");
    let (_output, mut link) = link_over(&input);
    let [_, _, submit, complete, _] = owned(&link);
    // The flags belong to the description, which both sides share.
    rustix::fs::fcntl_setfl(&complete, OFlags::empty()).expect("fcntl");
    assert_eq!(link.poll(&mut Vec::new()).expect("does not block"), 0);
    rustix::io::write(&submit, &(u64::MAX - 1).to_ne_bytes()).expect("fills the counter");
    let call = asya_ring::Call { payload: Extent { len: 0, ..input.slots() }, ..Default::default() };
    link.push(&asya_ring::Submission::Call(call)).expect("room");
    assert!(matches!(link.ring(), Err(PollError::Violation(Violation::Doorbell))));
    assert!(matches!(link.poll(&mut Vec::new()), Err(PollError::Violation(Violation::Doorbell))));
}

#[test]
fn a_worker_refuses_memory_that_could_shrink() {
    let input = InputRegion::create(1, LIMITS, MIB).expect("input");
    let (_output, link) = link_over(&input);
    assert!(Peer::attach(owned(&link), &link.geometry()).is_ok());
    let mut longer = link.geometry();
    longer.input_bytes += PAGE;
    assert!(Peer::attach(owned(&link), &longer).is_err());
    let mut loose = owned(&link);
    loose[1] = rustix::fs::memfd_create("loose", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    rustix::fs::ftruncate(&loose[1], link.geometry().output_bytes).expect("size");
    assert!(Peer::attach(loose, &link.geometry()).is_err());
}

#[test]
fn the_lifeline_ends_with_the_link() {
    let input = InputRegion::create(1, LIMITS, MIB).expect("input");
    let (_output, link) = link_over(&input);
    let [.., lifeline] = owned(&link);
    rustix::fs::fcntl_setfl(&lifeline, OFlags::NONBLOCK).expect("fcntl");
    assert_eq!(rustix::io::read(&lifeline, &mut [0; 1]), Err(Errno::AGAIN), "alive");
    drop(link);
    assert_eq!(rustix::io::read(&lifeline, &mut [0; 1]), Ok(0), "the end");
}
