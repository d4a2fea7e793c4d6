// SPDX-License-Identifier: Apache-2.0
// Event rings from the layout headers alone: what is read, what is lost, and headers that lie.

import Foundation
import SharedLayout
import SystemAccess
import TestSupport
import Testing

@testable import IndexReader

@Suite("Event rings", .bounded)
struct RingTests {
  /// Writes to a ring as an agent does.
  struct Writer {
    let ring: UnsafeMutablePointer<allocs_ring>
    let records: UnsafeMutablePointer<allocs_event>
    let capacity: UInt64
    var position: UInt64 = 0

    init(_ synthetic: SyntheticSegment, ring index: Int, slot: UInt32 = 0) {
      let section = synthetic.section(Int(ALLOCS_SECTION_RINGS.rawValue))
      let size = Int(section.pointee.entry_size)
      let start = synthetic.start + Int(section.pointee.offset) + index * size
      ring = start.assumingMemoryBound(to: allocs_ring.self)
      records = (start + Int(ALLOCS_RING_RECORDS_OFFSET)).assumingMemoryBound(to: allocs_event.self)
      capacity = UInt64((size - Int(ALLOCS_RING_RECORDS_OFFSET)) / 32)
      ring.pointee.slot = slot
      section.pointee.used = max(section.pointee.used, UInt64(index + 1))
    }

    mutating func write(stamp: UInt64? = nil) {
      if position % UInt64(ALLOCS_RING_CHUNK) == 0 {
        allocs_store_relaxed_u64(&ring.pointee.reserved, position + UInt64(ALLOCS_RING_CHUNK))
        allocs_fence_release()
      }
      let record = UnsafeMutableRawPointer(records + Int(position % capacity)).assumingMemoryBound(to: UInt64.self)
      let words = [
        allocs_event_place(ALLOCS_EVENT_ALLOC.rawValue, position * 32, 0), allocs_event_extent(position % 1000, 0),
        allocs_event_source(UInt32(position & 0xFFFFFF), 0), stamp ?? position + 1,
      ]
      for (index, word) in words.enumerated() { allocs_store_relaxed_u64(record + index, word) }
      position += 1
      allocs_store_release_u64(&ring.pointee.written, position)
    }
  }

  /// Reads everything there is, some records at a time.
  private func drain(
    _ segment: borrowing Segment, _ cursor: inout RingCursor, atOnce: Int = 100
  ) -> [allocs_event] {
    var all: [allocs_event] = []
    withUnsafeTemporaryAllocation(of: allocs_event.self, capacity: atOnce) { buffer in
      while true {
        let before = cursor.position
        let batch = segment.read(&cursor, into: buffer)
        all += batch.records.map { buffer[$0] }
        if cursor.position == before { break }
      }
    }
    return all
  }

  @Test("a ring that claims more records than a thread can have written is damaged, and no sum of losses overflows")
  func impossible() throws {
    let synthetic = SyntheticSegment()
    var writers = (0..<2).map { Writer(synthetic, ring: $0) }
    for index in 0..<2 { writers[index].write() }
    let segment = try Segment(path: synthetic.path)
    for claimed in [UInt64(1) << 63, .max, 1 << 51 + 1] {
      for index in 0..<2 {
        var cursor = RingCursor(ring: index)
        #expect(drain(segment, &cursor).count == 1)
        allocs_store_relaxed_u64(&writers[index].ring.pointee.reserved, claimed &+ UInt64(ALLOCS_RING_CHUNK))
        allocs_store_release_u64(&writers[index].ring.pointee.written, claimed)
        #expect(drain(segment, &cursor).isEmpty)
        #expect(cursor.isDamaged && cursor.lost == 0)
        allocs_store_release_u64(&writers[index].ring.pointee.written, 1)
        allocs_store_relaxed_u64(&writers[index].ring.pointee.reserved, UInt64(ALLOCS_RING_CHUNK))
      }
    }
  }

  @Test("a record is what was written, field by field")
  func fields() throws {
    let place = allocs_event_place(ALLOCS_EVENT_REALLOC_OLD.rawValue, 0x7FFF_FFFF_FFF0, 12)
    let record = allocs_event(
      place: place, extent: allocs_event_extent(0x7FFF_FFFF_FFFF, 0xFFFE),
      source: allocs_event_source(0xFF_FFFF, 0xAB_CDEF), stamp: 1_500_000_000)
    let event = Event(record)
    #expect(event.kind == .reallocOld && event.kind?.name == "realloc_old")
    #expect(event.address == 0x7FFF_FFFF_FFF0 && event.size == 0x7FFF_FFFF_FFFF && event.alignment == 4096)
    #expect(event.slot == 0xFFFE && event.context == 0xFF_FFFF && event.origin == 0xAB_CDEF)
    #expect(event.stamp == 1_500_000_000 && event.ticks == 95)
    #expect(Event(allocs_event(place: 200 << 48, extent: 0, source: 0, stamp: 0)).kind == nil)
  }

  @Test("each kind of event in the layout's list is a case of Event.Kind, and each case is in the list")
  func kinds() {
    for number in 0..<UInt32(ALLOCS_EVENT_KIND_COUNT.rawValue) + 100 {
      let name = String(cString: allocs_event_facts(number).name)
      let kind = Event.Kind(rawValue: number)
      #expect(name.isEmpty == (kind == nil), "kind \(number), \"\(name)\"")
      // The case's name is the enumerator's, which is the name in JSON in upper case.
      guard let kind else { continue }
      let words = name.split(separator: "_")
      #expect("\(kind)" == words[0] + words.dropFirst().map(\.capitalized).joined(), "kind \(number)")
      #expect(!kind.word.isEmpty && !kind.filterWord.isEmpty, "\(name)")
      #expect(kind.subject.rawValue == allocs_event_subject_of(number), "\(name)")
    }
    #expect(Set(Event.Kind.allCases.map(\.name)).count == Event.Kind.allCases.count)
    #expect(Set(Event.Kind.allCases.map(\.word)).count == Event.Kind.allCases.count)
  }

  @Test("docs/json.md names each kind of event, and docs/events.md each word of the filter")
  func documentation() throws {
    for (page, words) in [
      ("json.md", Event.Kind.allCases.map(\.name)), ("events.md", Event.Kind.allCases.map(\.filterWord)),
    ] {
      let package = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..")
      let text = try String(contentsOf: package.appending(path: "docs/\(page)"), encoding: .utf8)
      for word in words { #expect(text.contains("`\(word)`"), "\(page) lacks \(word)") }
    }
  }

  @Test("what is written is read once, in order, also around the end of the ring")
  func order() throws {
    let synthetic = SyntheticSegment()
    var writer = Writer(synthetic, ring: 1, slot: 7)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.ringCount == 2 && segment.ringCapacity == 512)
    #expect(segment.slot(ofRing: 1) == 7)
    var cursor = RingCursor(ring: 1)
    var expected: UInt64 = 0
    for count in [0, 1, 63, 64, 1, 300, 400, 448, 5] {
      for _ in 0..<count { writer.write() }
      for record in drain(segment, &cursor) {
        #expect(record.stamp == expected + 1 && allocs_event_address(record.place) == expected * 32)
        expected += 1
      }
      #expect(cursor.position == writer.position && cursor.lost == 0)
    }
    #expect(expected == writer.position && cursor.lastStamp == expected)
  }

  @Test("what was overwritten is counted, to the record")
  func lost() throws {
    let synthetic = SyntheticSegment()
    var writer = Writer(synthetic, ring: 0)
    let segment = try Segment(path: synthetic.path)
    var cursor = RingCursor(ring: 0)
    for _ in 0..<100 { writer.write() }
    #expect(drain(segment, &cursor).count == 100)
    for _ in 0..<1000 { writer.write() }
    let buffer = UnsafeMutableBufferPointer<allocs_event>.allocate(capacity: 2000)
    defer { buffer.deallocate() }
    let batch = segment.read(&cursor, into: buffer)
    // 1,152 announced, of which the ring holds the last 512, and 52 of those are not written yet.
    #expect(batch.lost == 540 && batch.position == 640 && batch.records.count == 460)
    #expect(buffer[batch.records.lowerBound].stamp == 641 && cursor.lost == 540 && cursor.lastStamp == 1100)
    #expect(segment.oldestPosition(inRing: 0) == 640)
    segment.withMappedRecords(ofRing: 0, from: 640, limit: 1000) { first, second in
      #expect(first.count == (512 - 128) * 32 && second.count == (460 - 384) * 32)
      #expect(first.load(fromByteOffset: 24, as: UInt64.self) == 641)
    }
    segment.withMappedRecords(ofRing: 0, from: 639, limit: 1000) { first, second in
      #expect(first.isEmpty && second.isEmpty)
    }
  }

  @Test("while it is overwritten as fast as can be, a reader sees whole records only, and every position once")
  func racing() throws {
    let synthetic = SyntheticSegment()
    let total: UInt64 = 300_000
    let segment = try Segment(path: synthetic.path)
    // A thread of its own: a task could wait for the one that waits for it here.
    final class Work: @unchecked Sendable {
      var writer: Writer
      init(_ writer: Writer) { self.writer = writer }
    }
    let work = Work(Writer(synthetic, ring: 0))
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      { argument in
        let work = Unmanaged<Work>.fromOpaque(argument!).takeUnretainedValue()
        while work.writer.position < 300_000 { work.writer.write() }
        return nil
      }, Unmanaged.passUnretained(work).toOpaque())
    var cursor = RingCursor(ring: 0)
    var read: UInt64 = 0
    var wrong = 0
    var last: UInt64 = 0
    while cursor.position < total {
      for record in drain(segment, &cursor, atOnce: 256) {
        let position = record.stamp - 1
        let isWhole =
          allocs_event_address(record.place) == position * 32 && allocs_event_size(record.extent) == position % 1000
          && record.source == position & 0xFFFFFF
        if !isWhole || record.stamp <= last { wrong += 1 }
        last = record.stamp
        read += 1
      }
      sched_yield()
    }
    pthread_join(thread, nil)
    #expect(wrong == 0)
    #expect(read + cursor.lost == total && !cursor.isDamaged)
  }

  @Test("a header that lies leads to no memory outside the ring, and to no endless reading")
  func lies() throws {
    let values: [UInt64] = [0, 1, 511, 512, 513, 1 << 20, 1 << 40, 1 << 63, .max - 511, .max]
    for written in values {
      for reserved in values {
        let synthetic = SyntheticSegment()
        var writer = Writer(synthetic, ring: 0)
        for _ in 0..<10 { writer.write() }
        let segment = try Segment(path: synthetic.path)
        var cursor = RingCursor(ring: 0)
        _ = drain(segment, &cursor)
        writer.ring.pointee.written = written
        writer.ring.pointee.reserved = reserved
        let before = cursor
        let records = drain(segment, &cursor)
        #expect(records.count <= 512)
        #expect(cursor.position - before.position == UInt64(records.count) + cursor.lost - before.lost)
        // Ten were read: a ring in which fewer are said to be written has lied.
        #expect(cursor.isDamaged || written >= 10)
        segment.withMappedRecords(ofRing: 0, from: cursor.position, limit: .max) { first, second in
          #expect(first.count + second.count <= 512 * 32)
        }
      }
    }
  }

  @Test("a ring of another size than a power of two, or rings outside the file, are damage")
  func sizes() throws {
    let damages: [(field: Int, values: [UInt64])] = [
      (8, [0, 4096, 4096 + 511 * 32, 4096 + 768 * 32, 1 << 40]), (16, [0, 5, 4097, 1 << 60]), (0, [0, 4096, 1 << 46]),
    ]
    for (field, values) in damages {
      for value in values {
        let synthetic = SyntheticSegment()
        let section = synthetic.section(Int(ALLOCS_SECTION_RINGS.rawValue))
        (UnsafeMutableRawPointer(section) + field).storeBytes(of: value, as: UInt64.self)
        #expect(throws: Complaint.self) { _ = try Segment(path: synthetic.path) }
      }
    }
  }

  @Test("a segment without rings has none, and nothing is read")
  func none() throws {
    let synthetic = SyntheticSegment()
    synthetic.section(Int(ALLOCS_SECTION_RINGS.rawValue)).pointee = allocs_section()
    let segment = try Segment(path: synthetic.path)
    #expect(segment.ringCount == 0 && segment.ringCapacity == 0)
    var cursor = RingCursor(ring: 0)
    #expect(drain(segment, &cursor).isEmpty && cursor.lost == 0)
  }
}

@Suite("Consumers of events", .bounded)
struct EventConsumerTests {
  /// A control file as the agent makes it, and a mapping of it.
  private final class Control {
    let segment: SyntheticSegment
    let path: String
    let start: UnsafeMutableRawPointer
    var header: UnsafeMutablePointer<allocs_control> { start.assumingMemoryBound(to: allocs_control.self) }

    init(size: Int = Int(ALLOCS_CONTROL_SIZE)) {
      segment = SyntheticSegment(startTime: 77)
      path = EventConsumer.controlPath(ofSegment: segment.path)
      let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
      ftruncate(descriptor, off_t(size))
      start = mmap(nil, Int(ALLOCS_CONTROL_SIZE), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
      close(descriptor)
      guard size >= 4096 else { return }
      header.pointee.magic = ALLOCS_CONTROL_MAGIC
      header.pointee.version = ALLOCS_CONTROL_VERSION
      header.pointee.size = UInt32(ALLOCS_CONTROL_SIZE)
      header.pointee.start_time = 77
      header.pointee.pid = UInt32(bitPattern: getpid())
    }
    deinit {
      munmap(start, Int(ALLOCS_CONTROL_SIZE))
      unlink(path)
    }
    func owners() -> Int {
      (0..<Int(ALLOCS_CONSUMER_COUNT)).filter {
        (start + 128 + $0 * 64).load(as: UInt64.self) != 0
      }.count
    }
  }

  @Test("the first to come turns events on, the last to leave turns them off, each period has its number")
  func presence() throws {
    let control = Control()
    let segment = try Segment(path: control.segment.path)
    var cursors: [RingCursor] = []
    for period in 1...3 {
      do {
        let one = try EventConsumer(to: segment, cursors: &cursors)
        #expect(control.header.pointee.events == period)
        do {
          let two = try EventConsumer(to: segment, policy: .lossless(waitNanoseconds: 5), cursors: &cursors)
          let areAttached = one.isAttached && two.keepAlive()
          #expect(areAttached && control.owners() == 2)
        }
        #expect(control.header.pointee.events == period && control.owners() == 1)
      }
      #expect(control.header.pointee.events == 0 && control.owners() == 0)
    }
    control.header.pointee.always = 1
    control.header.pointee.events = 9
    do { _ = try EventConsumer(to: segment, cursors: &cursors) }
    #expect(control.header.pointee.events == 9)
  }

  @Test("a consumer that was sent away knows it, and takes nothing of its successor's")
  func expelled() throws {
    let control = Control()
    let segment = try Segment(path: control.segment.path)
    var cursors: [RingCursor] = []
    do {
      let consumer = try EventConsumer(to: segment, cursors: &cursors)
      (control.start + 128).storeBytes(of: 0, as: UInt64.self)
      let isKept = consumer.keepAlive()
      #expect(!isKept)
      let successor = try EventConsumer(to: segment, policy: .lossless(waitNanoseconds: 0), cursors: &cursors)
      consumer.setPosition(1000, ofRing: 0, in: segment)
      #expect((control.start + 4096).load(as: UInt64.self) == 0)
      successor.setPosition(5, ofRing: 0, in: segment)
      #expect((control.start + 4096).load(as: UInt64.self) == 5)
    }
    #expect(control.owners() == 0)
  }

  @Test("there is room for so many, and the next is told so")
  func crowd() throws {
    let control = Control()
    let segment = try Segment(path: control.segment.path)
    for index in 0..<Int(ALLOCS_CONSUMER_COUNT) {
      (control.start + 128 + index * 64).storeBytes(of: 1, as: UInt64.self)
    }
    var cursors: [RingCursor] = []
    #expect(
      throws: Complaint.occupied(
        path: EventConsumer.controlPath(ofSegment: control.segment.path), consumers: Int(ALLOCS_CONSUMER_COUNT))
    ) { _ = try EventConsumer(to: segment, cursors: &cursors) }
  }

  @Test("a control file that is missing, short, another's, or of another version is an error")
  func damage() throws {
    var cursors: [RingCursor] = []
    func error(_ control: Control) throws -> Complaint? {
      let segment = try Segment(path: control.segment.path)
      do throws(Complaint) {
        _ = try EventConsumer(to: segment, cursors: &cursors)
        return nil
      } catch { return error }
    }
    let missing = Control()
    unlink(missing.path)
    #expect(try error(missing) == .noSuchFile(path: missing.path))
    #expect(try error(Control(size: 0))?.description.contains("cut short") == true)
    let changes: [(UnsafeMutablePointer<allocs_control>) -> Void] = [
      { $0.pointee.magic = 1 }, { $0.pointee.version = 2 }, { $0.pointee.start_time = 78 }, { $0.pointee.size = 5 },
    ]
    for change in changes {
      let control = Control()
      change(control.header)
      #expect(try error(control) != nil)
    }
  }

  @Test("a file that is cut short under a consumer looks like being sent away")
  func cut() throws {
    let control = Control()
    let segment = try Segment(path: control.segment.path)
    var cursors: [RingCursor] = []
    let consumer = try EventConsumer(to: segment, cursors: &cursors)
    truncate(control.path, 0)
    let isKept = consumer.keepAlive()
    consumer.setPosition(1, ofRing: 0, in: segment)
    #expect(!isKept)
  }
}
