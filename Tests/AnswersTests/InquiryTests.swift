// SPDX-License-Identifier: Apache-2.0
// Answers to addresses, from a segment written by hand. The live process is the test itself: its own mappings decide.

import Glibc
import IndexReader
import SharedLayout
import SystemAccess
import TestSupport
import Testing

@testable import Answers

/// A directory of its own for each test, removed with what is in it.
final class TemporaryDirectory {
  let path: String

  init() {
    var template = Array("/tmp/allocs-answers-XXXXXX".utf8CString)
    precondition(mkdtemp(&template) != nil)
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit { rmdir(path) }
}

/// This process's start time, as its segment would be named.
let ownStartTime: UInt64 = {
  let bytes = readFile("/proc/self/stat") ?? []
  return ProcessStat(bytes)?.startTime ?? 0
}()

/// Where the C library has this function. A sanitizer's runtime in this process has functions of the same names.
func addressInLibc(of name: String) -> UInt64? {
  guard let library = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD) else { return nil }
  return dlsym(library, name).map { UInt64(UInt(bitPattern: $0)) }
}

/// A mapping of anonymous memory, as an allocator makes them. Pages without access on both sides keep the kernel from
/// merging it with what other tests map meanwhile.
final class Pages {
  private static let guardSize = 4096
  let start: UInt64
  let size: Int
  private let mapping: UnsafeMutableRawPointer

  init(_ size: Int) {
    self.size = size
    mapping = mmap(nil, size + 2 * Self.guardSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    precondition(mapping != MAP_FAILED)
    let inner = mapping + Self.guardSize
    precondition(mprotect(inner, size, PROT_READ | PROT_WRITE) == 0)
    start = UInt64(UInt(bitPattern: inner))
  }

  deinit { munmap(mapping, size + 2 * Self.guardSize) }
}

@Suite("Inquiries, of a live process", .bounded)
struct LiveInquiryTests {
  private let directory = TemporaryDirectory()

  private func segment() -> SyntheticSegment {
    SyntheticSegment(
      startTime: ownStartTime, in: directory.path,
      name: SegmentFile.name(processID: getpid(), startTime: ownStartTime))
  }

  private func answer(_ segment: SyntheticSegment, _ address: UInt64) throws -> Answer {
    try ProcessView(file: segment.path).answer(address)
  }

  @Test("a block: base, size, offset, context, thread by its present name, age, neighbours, mapping")
  func heap() throws {
    let segment = segment()
    let pages = Pages(1 << 20)
    let now = SegmentClock.ticksNow
    let thread = segment.addThread(id: UInt32(getpid()), name: "recorded", from: now)
    segment.addModule(path: "/lib/libexample.so.1", range: 0x1000_0000..<0x1001_0000, flags: 0)
    segment.addAllocator(module: 1)
    let node = segment.addNode(pc: 0x1000_0100)
    let context = segment.addContext(node: node, thread: thread, function: ALLOCS_FUNCTION_CALLOC)
    segment.allocate(pages.start, size: 32, context: context, ticks: now)
    segment.allocate(pages.start + 0x100, size: 96, alignment: 6, context: context, ticks: now)
    segment.allocate(pages.start + 0x200, size: 0, ticks: now)

    let answer = try answer(segment, pages.start + 0x110)
    #expect(answer.kind == .heap)
    #expect(answer.block == Answer.Block(base: pages.start + 0x100, size: 96))
    #expect(answer.offset == 16)
    #expect(answer.alignment == 64)
    #expect(answer.allocator == "libexample.so.1" && answer.function == "calloc")
    #expect(answer.thread?.id == UInt32(getpid()))
    let name = String(decoding: (readFile("/proc/self/comm") ?? []).dropLast(), as: UTF8.self)
    #expect(answer.thread?.name?.unescaped == name && name != "recorded")
    #expect(answer.age.map { $0 >= 0 && $0 < 600 } == true)
    #expect(answer.stack?.frames.map(\.pc) == [0x1000_0100])
    #expect(answer.stack?.frames.first?.module == "/lib/libexample.so.1")
    #expect(answer.previous?.block == Answer.Block(base: pages.start, size: 32))
    #expect(answer.next?.block == Answer.Block(base: pages.start + 0x200, size: 0))
    #expect(answer.mapping?.contains(pages.start) == true)
    // Who allocated a neighbour: the first suspect where a block was written over.
    #expect(answer.previous?.site?.pc == 0x1000_0100 && answer.previous?.function == "calloc")
    #expect(answer.previous?.age.map { $0 >= 0 && $0 < 600 } == true)
    #expect(answer.next?.site == nil && answer.next?.function == nil && answer.next?.age != nil)
    let gap = try self.answer(segment, pages.start + 0x40)
    #expect(gap.kind == .free && gap.previous?.site?.pc == 0x1000_0100 && gap.next?.function == "calloc")
    let words = gap.text.split(whereSeparator: \.isWhitespace).joined(separator: " ")
    #expect(words.contains("previous \(hex(pages.start)), 32 bytes, 32 bytes below, by "), "\(gap.text)")
  }

  @Test("a block of no bytes owns its base alone")
  func empty() throws {
    let segment = segment()
    let pages = Pages(4096)
    segment.allocate(pages.start, size: 0)
    #expect(try answer(segment, pages.start).kind == .heap)
    #expect(try answer(segment, pages.start + 1).kind == .free)
  }

  @Test("free: within a mapping that was ever heap, near blocks or far from them")
  func free() throws {
    let segment = segment()
    let pages = Pages(8 << 20)
    segment.allocate(pages.start, size: 64)
    segment.allocate(pages.start + 0x1000, size: 64)
    segment.free(pages.start + 0x1000)
    for offset: UInt64 in [64, 0x1000, 0x7F_F000] {
      let answer = try answer(segment, pages.start + offset)
      #expect(answer.kind == .free)
      #expect(answer.previous?.base == pages.start)
      #expect(answer.next == nil && answer.note == nil && answer.mapping != nil)
    }
    // Also when nothing in it is live any more.
    segment.free(pages.start)
    #expect(try answer(segment, pages.start + 0x7F_F000).kind == .free)
  }

  @Test("free: pages that were given back")
  func givenBack() throws {
    let segment = segment()
    // Far below where the kernel puts programs and mappings.
    let address: UInt64 = 0x2000_0000
    segment.allocate(address, size: 64)
    segment.free(address)
    let answer = try answer(segment, address)
    #expect(answer.kind == .free && answer.note == .givenBack && answer.mapping == nil)
  }

  @Test("anonymous memory that was never heap is a mapping; a file's is, even where heap has been")
  func mapping() throws {
    let segment = segment()
    let pages = Pages(1 << 20)
    let answer = try answer(segment, pages.start + 0x8000)
    #expect(answer.kind == .mapping && answer.mapping?.path == nil)

    let file = UInt64(UInt(bitPattern: segment.start))
    segment.allocate(file + 4096, size: 64)
    segment.free(file + 4096)
    let other = try self.answer(segment, file + 4096)
    #expect(other.kind == .mapping)
    #expect(other.mapping?.path?.unescaped == segment.path)
  }

  @Test("static: a function of the C library, found by the mapped file, as the segment lists no modules")
  func staticByFile() throws {
    let segment = segment()
    let answer = try answer(segment, #require(addressInLibc(of: "qsort")))
    #expect(answer.kind == .static)
    #expect(answer.module?.contains("libc") == true)
    #expect(answer.symbol?.name.contains("qsort") == true && answer.symbol?.offset == 0)
    #expect(answer.section == ".text")
  }

  @Test("stack: the main thread's, and one whose bounds are known")
  func stack() throws {
    let segment = segment()
    let maps = ProcessMaps(text: try #require(readFile("/proc/self/maps")))
    let main = try #require(maps.mappings.first { $0.isMainStack })
    let own = try answer(segment, main.end - 64)
    #expect(own.kind == .stack && own.thread?.id == UInt32(getpid()))

    let pages = Pages(1 << 20)
    let slot = segment.addThread(id: 999_999_999, name: "worker", from: 0)
    let entry = segment.entries(ALLOCS_SECTION_THREADS, as: allocs_thread.self) + Int(slot)
    entry.pointee.stack_low = pages.start
    entry.pointee.stack_high = pages.start + 0x8_0000
    // Stacks lie where heap has been, and are stacks none the less.
    segment.allocate(pages.start + 0x4000, size: 64)
    segment.free(pages.start + 0x4000)
    let other = try answer(segment, pages.start + 0x4000)
    #expect(other.kind == .stack && other.thread == Answer.Thread(id: 999_999_999, name: "worker"))
    #expect(try answer(segment, pages.start + 0x8_0000).kind == .free)
  }

  @Test("stack: a thread that waits is seen in its stack, though the segment knows no bounds")
  func waiting() throws {
    let segment = segment()
    let pages = Pages(1 << 20)
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    pthread_attr_setstack(&attributes, UnsafeMutableRawPointer(bitPattern: UInt(pages.start))!, pages.size)
    let ends = try makePipe()
    var thread = pthread_t()
    let argument = UnsafeMutableRawPointer(bitPattern: Int(ends.read))
    pthread_create(
      &thread, &attributes,
      { argument in
        var byte: UInt8 = 0
        _ = read(Int32(Int(bitPattern: argument)), &byte, 1)
        return nil
      }, argument)
    pthread_attr_destroy(&attributes)
    // Until it waits in read, it may be seen running, or not at all.
    var answer = try answer(segment, pages.start + 64)
    try wait(for: "the thread waits, and its stack is known", pause: 1000) {
      answer = try self.answer(segment, pages.start + 64)
      #expect(answer.kind == .stack || answer.kind == .mapping)
      return answer.kind == .stack
    }
    #expect(answer.thread != nil && answer.thread?.id != UInt32(getpid()))
    #expect(answer.thread?.name != nil)
    write(ends.write, "x", 1)
    pthread_join(thread, nil)
    close(ends.read)
    close(ends.write)
    #expect(try self.answer(segment, pages.start + 64).kind == .mapping)
  }

  @Test("unmapped: nothing there, nothing can be there")
  func unmapped() throws {
    let segment = segment()
    #expect(try answer(segment, 0).kind == .unmapped)
    #expect(try answer(segment, 0).note == nil)
    for address in [1 << 47, UInt64.max - 0xFFFF] {
      let answer = try answer(segment, address)
      #expect(answer.kind == .unmapped && answer.note == .outsideUserSpace)
    }
  }

  @Test("a batch of JSON has the same bytes as the answers one by one")
  func batch() throws {
    let segment = segment()
    let pages = Pages(1 << 20)
    let now = SegmentClock.ticksNow
    let first = segment.addThread(id: UInt32(getpid()), name: "one", from: now)
    let second = segment.addThread(id: 999_999_998, name: "two \"\u{1}", from: now)
    segment.replaceThread(slot: second, endingAt: now, by: 999_999_997, name: "three", from: now + 1)
    segment.addModule(path: "/lib/lib\"odd\"\u{1F}.so", range: 0x1000_0000..<0x1001_0000)
    segment.addAllocator(module: 1)
    let node = segment.addNode(pc: 0x1000_0100)
    let contexts = [
      0, segment.addContext(node: node, thread: first), segment.addContext(node: node, thread: second),
      segment.addContext(node: 0, function: ALLOCS_FUNCTION_NEW_ARRAY, allocator: 7), 1_000_000,
    ]
    var addresses: [UInt64] = [0, .max, UInt64(UInt(bitPattern: segment.start))]
    for index in 0..<200 {
      let base = pages.start + UInt64(index) * 0x200
      segment.allocate(
        base, size: UInt64(index) * 2, alignment: UInt32(index % 8), context: contexts[index % contexts.count],
        ticks: now &+ UInt32(index % 3))
      addresses += [base, base + UInt64(index), base + UInt64(index) * 2]
    }
    let view = try ProcessView(file: segment.path)
    var kinds: Set<String> = []
    var inquiry = Inquiry(view)
    var writer = ByteWriter()
    for round in 0..<2 {
      for (index, address) in addresses.enumerated() {
        var expected = inquiry.answer(address, stacks: false)
        inquiry.appendJSONLine(of: address, stacks: false, to: &writer)
        let line = writer.takeString()
        #expect(line == expected.json + "\n", "round \(round)")
        let value = try parseJSON(String(line.dropLast()))
        kinds.insert(value["kind"]?.string ?? "")
        // Some against an inquiry of their own, which has nothing in store. Time goes on, so ages are left out.
        guard index % 25 < 3 else { continue }
        var fresh = try view.answer(address, stacks: false)
        expected.age = nil
        fresh.age = nil
        #expect(expected == fresh)
      }
    }
    #expect(kinds == ["heap", "free", "mapping", "unmapped"])

    try view.appendJSON(of: addresses, stacks: true, to: &writer)
    let lines = writer.take().split(separator: UInt8(ascii: "\n"))
    #expect(lines.count == addresses.count)
    for line in lines { _ = try parseJSON(Array(line)) }
    #expect(try view.text(of: addresses).split(separator: "\n").count > addresses.count)
  }

  @Test("of few addresses the kernel is asked for their mappings alone, and the answers are the same")
  func asked() throws {
    let segment = segment()
    let pages = Pages(1 << 20)
    let now = SegmentClock.ticksNow
    // As libc lays out a thread's arena: at a multiple of 64 MiB, with what is not used yet reserved above.
    let heapSize: UInt64 = 64 << 20
    let whole = mmap(nil, Int(heapSize) * 2, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    let room = try #require(whole == MAP_FAILED ? nil : whole)
    defer { munmap(room, Int(heapSize) * 2) }
    let arena = (UInt64(UInt(bitPattern: room)) + heapSize - 1) & ~(heapSize - 1)
    try #require(mprotect(UnsafeMutableRawPointer(bitPattern: UInt(arena)), 1 << 20, PROT_READ | PROT_WRITE) == 0)
    segment.addModule(path: "/lib/libc.so.6", range: 0x1000_0000..<0x1001_0000, flags: 0)
    segment.addAllocator(module: 1)
    let thread = segment.addThread(id: UInt32(getpid()), name: "recorded", from: now)
    let context = segment.addContext(
      node: segment.addNode(pc: 0x1000_0100), thread: thread, function: ALLOCS_FUNCTION_MALLOC)
    segment.allocate(pages.start, size: 32, context: context, ticks: now)
    segment.allocate(arena + 0x1000, size: 320, context: context, ticks: now)

    let view = try ProcessView(file: segment.path)
    func answers(_ inquiry: inout Inquiry, _ addresses: [UInt64]) -> [Answer] {
      addresses.map { address in
        var answer = inquiry.answer(address)
        answer.age = nil
        answer.previous?.age = nil
        answer.next?.age = nil
        return answer
      }
    }
    let blocks = [pages.start + 16, arena + 0x1010]
    var all = Inquiry(view)
    let expected = answers(&all, blocks)
    #expect(!all.surroundings.knowsSome)
    #expect(expected.allSatisfy { $0.kind == .heap && $0.mapping != nil && $0.thread?.name != nil })
    #expect(expected[1].arena == Answer.Arena(range: arena..<arena + heapSize, kind: .thread))

    // Linux knows the question since 6.11.
    let isKnown = try MappingQueryTests.isKnown()
    var few = Inquiry(view, about: blocks)
    #expect(few.surroundings.knowsSome == isKnown)
    #expect(few.isOfLiveProcess && answers(&few, blocks) == expected)
    #expect(few.surroundings.knowsSome == isKnown)
    // Of a block that was freed since, and of all other places, the rest of the mappings tells.
    segment.free(pages.start)
    let own = UInt64(UInt(bitPattern: segment.start))
    let places = [pages.start + 16, own, 0, .max, try #require(addressInLibc(of: "qsort")), arena + 0x1010]
    var fresh = Inquiry(view)
    let rest = answers(&fresh, places)
    #expect(Set(rest.map(\.kind)) == [.free, .mapping, .unmapped, .static, .heap])
    #expect(answers(&few, places) == rest)
    #expect(!few.surroundings.knowsSome)
    // With an address in no mapping among those that were told.
    var mixed = Inquiry(view, about: [arena + 0x1010, 0])
    #expect(!mixed.surroundings.knowsSome && answers(&mixed, places) == rest)
    // Whether the process still has its segment is asked each time: another mapping lies there now.
    view.latestMaps.segmentStart = arena
    var moved = Inquiry(view, about: [arena + 0x1010])
    #expect(!moved.surroundings.knowsSome && answers(&moved, [arena + 0x1010]) == rest.suffix(1))
    #expect(view.latestMaps.segmentStart == own)
  }
}

@Suite("Inquiries, of a process that is gone", .bounded)
struct DeadInquiryTests {
  private let directory = TemporaryDirectory()

  private func segment() -> SyntheticSegment {
    // No process has this start time: whoever has the id now is another one.
    SyntheticSegment(processID: 1, startTime: 1, in: directory.path, name: "1.1.seg")
  }

  @Test("blocks, gaps between them, and what nobody knows any more")
  func kinds() throws {
    let segment = segment()
    let base: UInt64 = 0x5555_0000_0000
    segment.allocate(base + 0x1_0000, size: 100)
    segment.allocate(base + 0x200_0000, size: 100)
    let view = try ProcessView(file: segment.path)
    #expect(!view.isProcessAlive)
    let block = try view.answer(base + 0x1_0010)
    #expect(block.kind == .heap && block.mapping == nil)
    // The neighbours on both sides lie in the same 64 MiB.
    #expect(try view.answer(base + 0x100_0000).kind == .free)
    // Its 2 KiB were heap.
    #expect(try view.answer(base + 0x200_0100).kind == .free)
    let beyond = try view.answer(base + 0x300_0000)
    #expect(beyond.kind == .unmapped && beyond.note == .processEnded && beyond.previous == nil)
    #expect(beyond.text.contains("has ended"))
    #expect(try view.answer(1 << 47).note == .outsideUserSpace)
  }

  @Test("modules and stacks that the segment lists")
  func tables() throws {
    let segment = segment()
    segment.addModule(path: "/no/such/file", range: 0x4000_0000..<0x4001_0000)
    segment.addModule(path: "/unloaded", range: 0x5000_0000..<0x5001_0000, unloaded: 1)
    let slot = segment.addThread(id: 77, name: "worker", from: 0)
    let entry = segment.entries(ALLOCS_SECTION_THREADS, as: allocs_thread.self) + Int(slot)
    entry.pointee.stack_low = 0x7000_0000
    entry.pointee.stack_high = 0x7001_0000
    let view = try ProcessView(file: segment.path)
    let code = try view.answer(0x4000_0010)
    #expect(code.kind == .static && code.module == "/no/such/file" && code.symbol == nil)
    #expect(try view.answer(0x5000_0010).kind == .unmapped)
    let stack = try view.answer(0x7000_0010)
    #expect(stack.kind == .stack && stack.thread == Answer.Thread(id: 77, name: "worker"))
  }

  @Test("a process that no longer writes its index, as after exec")
  func abandoned() throws {
    let segment = SyntheticSegment(
      startTime: ownStartTime, in: directory.path,
      name: SegmentFile.name(processID: getpid(), startTime: ownStartTime))
    let block: UInt64 = 0x2000_0000
    segment.allocate(block, size: 64)
    let view = try ProcessView(file: segment.path)
    let pages = Pages(4096)
    #expect(try view.answer(pages.start).kind == .mapping)
    #expect(try !view.summary().isAbandoned)
    mprotect(segment.start, segment.size, PROT_READ)
    // The mappings of the present program say nothing about the former one.
    let answer = try view.answer(pages.start)
    #expect(answer.kind == .unmapped && answer.note == .indexAbandoned)
    #expect(try view.answer(block).kind == .heap)
    #expect(try view.summary().isAbandoned)
  }
}

@Suite("Views", .bounded)
struct ProcessViewTests {
  private let directory = TemporaryDirectory()

  @Test("no such process, a process without a segment, a file that is none")
  func absent() throws {
    let none = #expect(throws: Complaint.self) { try ProcessView(pid: 4_194_305, in: [directory.path]) }
    #expect(none?.kind == .noSuchProcess)
    for pid: Int32 in [0, -1] {
      let error = #expect(throws: Complaint.self) { try ProcessView(pid: pid, in: [directory.path]) }
      #expect(error?.kind == .noSuchProcess)
    }
    let own = #expect(throws: Complaint.self) { try ProcessView(pid: getpid(), in: [directory.path]) }
    #expect(own?.kind == .notIndexed)
    #expect(own?.description.contains(directory.path) == true)
    let file = #expect(throws: Complaint.self) { try ProcessView(file: "/proc/self/maps") }
    #expect(file?.kind == .unreadable)
    let missing = #expect(throws: Complaint.self) { try ProcessView(file: "/no/such.seg") }
    #expect(missing?.kind == .notIndexed)
  }

  @Test("a segment is found by its process")
  func found() throws {
    let segment = SyntheticSegment(
      startTime: ownStartTime, in: directory.path,
      name: SegmentFile.name(processID: getpid(), startTime: ownStartTime))
    let view = try ProcessView(pid: getpid(), in: [directory.path])
    #expect(view.path == segment.path && view.processID == getpid() && view.isProcessAlive)
  }

  @Test("a segment that is cut while it is read ends in an error, not in an answer")
  func cut() throws {
    let segment = SyntheticSegment(processID: 1, startTime: 1, in: directory.path, name: "1.1.seg")
    segment.allocate(0x5555_0000_0000, size: 100)
    let view = try ProcessView(file: segment.path)
    #expect(try view.answer(0x5555_0000_0000).kind == .heap)
    truncate(segment.path, 8192)
    let error = #expect(throws: Complaint.self) { try view.answer(0x5555_0000_0000) }
    #expect(error?.kind == .unreadable)
    #expect(throws: Complaint.self) { try view.top() }
    #expect(throws: Complaint.self) { try view.summary() }
  }
}
