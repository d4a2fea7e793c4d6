// SPDX-License-Identifier: Apache-2.0
// Contexts, call stacks, modules, threads and time against what was written.

import Glibc
import IndexReader
import SharedLayout
import TestSupport
import Testing

@Suite("Contexts and stacks", .bounded)
struct OriginTests {
  @Test("a context gives function, allocator, thread and stack")
  func context() throws {
    let synthetic = SyntheticSegment()
    let module = synthetic.addModule(path: "/lib/libc.so.6", range: 0x7000_0000..<0x7100_0000)
    synthetic.addAllocator(module: 0)
    synthetic.addAllocator(module: UInt32(module) + 1)
    let outer = synthetic.addNode(pc: 0x1000)
    let middle = synthetic.addNode(pc: 0x2000, parent: outer)
    let inner = synthetic.addNode(pc: 0x3000, parent: middle)
    let id = synthetic.addContext(node: inner, thread: 3, function: ALLOCS_FUNCTION_NEW_ARRAY, allocator: 1)
    let bare = synthetic.addContext(node: 0, function: ALLOCS_FUNCTION_UNKNOWN, allocator: 200)
    let segment = try Segment(path: synthetic.path)
    let context = try #require(segment.context(id) as Context?)
    #expect(context.function == "operator new[]")
    #expect(context.allocator?.module?.path == "/lib/libc.so.6" && context.allocator?.name == nil)
    #expect(context.threadSlot == 3)
    #expect(segment.stack(ofNode: context.node) == Stack(addresses: [0x3000, 0x2000, 0x1000], truncation: nil))
    #expect(segment.stack(ofNode: outer).addresses == [0x1000])
    #expect(segment.stack(ofNode: 0) == Stack(addresses: [], truncation: nil))
    let nothing = try #require(segment.context(bare) as Context?)
    #expect(nothing == Context(id: bare, node: 0, threadSlot: nil, function: nil, allocator: nil))
    #expect(segment.context(0) == nil)
    #expect(segment.context(bare + 1) == nil)
    #expect(segment.context(.max) == nil)
  }

  @Test("what the agent could not hook has a name, a module and a reason; entries that make no sense are left out")
  func bypasses() throws {
    let synthetic = SyntheticSegment()
    synthetic.addBypass("mi_free", of: "/lib/libmimalloc.so.2", reason: ALLOCS_BYPASS_SHORT.rawValue)
    synthetic.addBypass("", of: "", reason: ALLOCS_BYPASS_SANITIZER.rawValue)
    synthetic.addBypass("free", of: "", reason: 900)
    synthetic.addBypass("free", of: "", reason: ALLOCS_BYPASS_NONE.rawValue)
    let lost = synthetic.addBypass("malloc", of: "", reason: ALLOCS_BYPASS_SHORT.rawValue)
    synthetic.entries(ALLOCS_SECTION_BYPASSES, as: allocs_bypass.self)[lost].function = .max
    let segment = try Segment(path: synthetic.path)
    #expect(
      segment.bypasses == [
        Bypass(function: "mi_free", module: "/lib/libmimalloc.so.2", reason: "it is too short"),
        Bypass(function: nil, module: nil, reason: "it is a sanitizer's, which has its own index"),
        Bypass(
          function: "free", module: nil, reason: "for a reason that only a later version knows (900)"),
      ])
    synthetic.section(Int(ALLOCS_SECTION_BYPASSES.rawValue)).pointee = allocs_section()
    #expect(try Segment(path: synthetic.path).bypasses == [])
  }

  @Test("an allocator has a name, a function of its own, and a group; entries that contradict themselves are none")
  func allocators() throws {
    let synthetic = SyntheticSegment()
    let module = UInt32(synthetic.addModule(path: "/lib/libapr-1.so.0", range: 0x7000_0000..<0x7100_0000)) + 1
    synthetic.addAllocator(module: 0)
    let kind = ALLOCS_ALLOCATOR_SUBALLOCATOR
    let first = synthetic.addAllocator(module: module, kind: kind, name: "apr", function: "apr_palloc")
    let second = synthetic.addAllocator(
      module: module, kind: kind, name: "apr", function: "apr_pcalloc", group: first,
      flags: ALLOCS_ALLOCATOR_ANNOUNCED.rawValue)
    let bad = synthetic.addAllocator(module: 99, kind: allocs_allocator_kind(77))
    let lost = synthetic.addAllocator(module: 99)
    synthetic.entries(ALLOCS_SECTION_ALLOCATORS, as: allocs_allocator.self)[Int(lost)].name = 1 << 60
    synthetic.entries(ALLOCS_SECTION_ALLOCATORS, as: allocs_allocator.self)[Int(lost)].name_size = 9
    let id = synthetic.addContext(node: 0, function: ALLOCS_FUNCTION_MALLOC, allocator: second)
    let segment = try Segment(path: synthetic.path)
    let context = try #require(segment.context(id) as Context?)
    #expect(context.function == "apr_pcalloc")
    let allocator = try #require(context.allocator)
    #expect(allocator.name == "apr" && allocator.module?.path == "/lib/libapr-1.so.0" && allocator.isAnnounced)
    #expect(allocator.kind == .suballocator && allocator.group == first)
    #expect(segment.allocators.map(\.number) == [0, first, second, lost])
    #expect(segment.allocator(bad) == nil)
    #expect(segment.allocator(lost) == Allocator(number: lost, module: nil))
  }

  @Test("a stack that was cut says why, and how many frames are missing")
  func truncation() throws {
    let synthetic = SyntheticSegment()
    let lost = synthetic.addNode(pc: 1, flags: ALLOCS_NODE_TRUNCATED.rawValue)
    let deep = synthetic.addNode(pc: 2, flags: ALLOCS_NODE_DEPTH_LIMIT.rawValue)
    let counted = synthetic.addNode(pc: 4, parent: 99328, flags: ALLOCS_NODE_DEPTH_LIMIT.rawValue)
    let caller = synthetic.addNode(pc: 3, parent: lost)
    let inner = synthetic.addNode(pc: 5, parent: counted)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.stack(ofNode: caller) == Stack(addresses: [3, 1], truncation: .unwinder))
    #expect(segment.stack(ofNode: deep) == Stack(addresses: [2], truncation: .depthLimit))
    #expect(segment.stack(ofNode: inner) == Stack(addresses: [5, 4], truncation: .depthLimit, framesCut: 99328))
  }

  @Test("a circle of nodes ends, whatever its length and the way to it", arguments: [1, 2, 3, 7, 64], [0, 1, 5, 100])
  func circle(length: Int, approach: Int) throws {
    let synthetic = SyntheticSegment()
    let first = synthetic.addNode(pc: 1, parent: UInt32(length))
    for index in 1..<max(1, length) { _ = synthetic.addNode(pc: 2, parent: first + UInt32(index) - 1) }
    var start = first
    for _ in 0..<approach { start = synthetic.addNode(pc: 3, parent: start) }
    let segment = try Segment(path: synthetic.path)
    let stack = segment.stack(ofNode: start)
    #expect(stack.truncation == .damaged)
    #expect(stack.addresses.count < 4 * (length + approach) + 4)
  }

  @Test("a node that leads outside the table ends the stack as damaged")
  func outside() throws {
    let synthetic = SyntheticSegment()
    let node = synthetic.addNode(pc: 5, parent: 250)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.stack(ofNode: node) == Stack(addresses: [5], truncation: .damaged))
    #expect(segment.stack(ofNode: .max) == Stack(addresses: [], truncation: .damaged))
  }

  @Test("header facts come back as written")
  func header() throws {
    let synthetic = SyntheticSegment(processID: 4711, startTime: 99, command: ["sqlite3", "", "a b"])
    withUnsafeMutableBytes(of: &synthetic.header.pointee.counters) {
      $0.storeBytes(of: 42, toByteOffset: Int(ALLOCS_COUNTER_NESTED.rawValue) * 8, as: UInt64.self)
    }
    synthetic.header.pointee.flags = ALLOCS_FLAG_FULL_STACKS.rawValue
    let segment = try Segment(path: synthetic.path)
    #expect(segment.processID == 4711)
    #expect(segment.startTime == 99)
    #expect(segment.userID == getuid())
    #expect(segment.ownerID == geteuid())
    #expect(segment.command == ["sqlite3", "", "a b"])
    #expect(segment.hasFullStacks == true)
    #expect(segment.state == .live)
    synthetic.header.pointee.state = ALLOCS_STATE_EXITED.rawValue
    #expect(segment.state == .exited)
    let counters = segment.counters
    #expect(counters.contains { $0.name == "consumers_expelled" } && !counters.contains { $0.name.isEmpty })
    #expect(counters.filter { $0.value != 0 }.map(\.name) == ["nested"])
  }
}

@Suite("Modules", .bounded)
struct ModuleTests {
  @Test("of two modules at one place, the one that was loaded at the time")
  func byTime() throws {
    let synthetic = SyntheticSegment()
    let range: Range<UInt64> = 0x1000..<0x9000
    synthetic.addModule(path: "/first", range: range, bias: 0x1000, buildID: [0xAB, 0xCD], loaded: 100, unloaded: 200)
    synthetic.addModule(path: "/second", range: range, loaded: 300, flags: ALLOCS_MODULE_MAIN.rawValue)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.modules.map(\.path) == ["/first", "/second"])
    #expect(segment.module(containing: 0x1000, at: 100)?.path == "/first")
    #expect(segment.module(containing: 0x8FFF, at: 200)?.path == "/first")
    #expect(segment.module(containing: 0x1000, at: 250) == nil)
    #expect(segment.module(containing: 0x1000, at: 300)?.path == "/second")
    #expect(segment.module(containing: 0x1000, at: 1 << 29)?.path == "/second")
    #expect(segment.module(containing: 0x1000, at: 50) == nil)
    #expect(segment.module(containing: 0x9000, at: 300) == nil)
    #expect(segment.module(containing: 0xFFF, at: 300) == nil)
    let first = try #require(segment.modules.first)
    #expect(first.buildID == [0xAB, 0xCD])
    #expect(first.bias == 0x1000)
    #expect(first.unloadTicks == 200)
    #expect(!first.isMain)
    #expect(segment.modules[1].isMain)
    #expect(segment.modules[1].unloadTicks == nil)
  }

  @Test("times compare across the wrap of 31 bits")
  func wrap() throws {
    let synthetic = SyntheticSegment()
    synthetic.addModule(path: "/m", range: 0x1000..<0x2000, loaded: ALLOCS_TICK_MASK - 10, unloaded: 10)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.module(containing: 0x1000, at: ALLOCS_TICK_MASK)?.path == "/m")
    #expect(segment.module(containing: 0x1000, at: 0)?.path == "/m")
    #expect(segment.module(containing: 0x1000, at: 10)?.path == "/m")
    #expect(segment.module(containing: 0x1000, at: 11) == nil)
    #expect(segment.module(containing: 0x1000, at: ALLOCS_TICK_MASK - 20) == nil)
  }

  @Test("an entry whose path or build id leads outside is left out")
  func damaged() throws {
    let synthetic = SyntheticSegment()
    for _ in 0..<4 { synthetic.addModule(path: "/m", range: 0x1000..<0x2000) }
    let modules = synthetic.entries(ALLOCS_SECTION_MODULES, as: allocs_module.self)
    modules[0].path = .max
    modules[1].path_size = .max
    modules[2].build_id_size = 33
    let segment = try Segment(path: synthetic.path)
    #expect(segment.modules.map(\.index) == [3])
  }
}

@Suite("Threads", .bounded)
struct ThreadTests {
  @Test("a slot's holder is told by time; who is overwritten in the history is nobody")
  func holders() throws {
    let synthetic = SyntheticSegment()
    let slot = synthetic.addThread(id: 100, name: "first", from: 10)
    let other = synthetic.addThread(id: 900, name: "other", from: 1)
    synthetic.replaceThread(slot: slot, endingAt: 20, by: 101, name: "second", from: 30)
    synthetic.replaceThread(slot: slot, endingAt: 40, by: 102, name: "third", from: 50)
    let segment = try Segment(path: synthetic.path)
    for (ticks, name) in [(10, "first"), (20, "first"), (30, "second"), (40, "second"), (50, "third"), (5000, "third")]
    {
      #expect(segment.thread(slot: slot, at: UInt32(ticks))?.name.unescaped == name)
    }
    for ticks: UInt32 in [9, 25, 45] { #expect(segment.thread(slot: slot, at: ticks) == nil) }
    #expect(segment.thread(slot: other, at: 35)?.id == 900)
    #expect(segment.thread(slot: other + 1, at: 35) == nil)
    #expect(segment.threads.map(\.id) == [102, 900])
    #expect(segment.formerThreads.map(\.id) == [100, 101])
    #expect(segment.formerThreads.map(\.endTicks) == [20, 40])
    for index in 0..<40 as Range<UInt32> {
      synthetic.replaceThread(slot: other, endingAt: 100 + index * 10, by: index, name: "x", from: 105 + index * 10)
    }
    #expect(segment.thread(slot: slot, at: 15) == nil)
    #expect(segment.thread(slot: slot, at: 60)?.id == 102)
    #expect(segment.formerThreads.count == 32)
    #expect(segment.thread(slot: other, at: 2) == nil)
    #expect(segment.thread(slot: other, at: 106 + 30 * 10)?.id == 30)
  }

  @Test("an ended thread keeps what it left behind until its slot has another holder")
  func ended() throws {
    let synthetic = SyntheticSegment()
    let slot = synthetic.addThread(id: 5, name: "worker", from: 10)
    let entry = synthetic.entries(ALLOCS_SECTION_THREADS, as: allocs_thread.self) + Int(slot)
    entry.pointee.state = ALLOCS_THREAD_ENDED.rawValue
    entry.pointee.identity.end_ticks = 20
    entry.pointee.stack_low = 0x1000
    entry.pointee.stack_high = 0x2000
    let segment = try Segment(path: synthetic.path)
    let thread = try #require(segment.thread(slot: slot, at: 15) as ThreadIdentity?)
    #expect(thread.state == .ended)
    #expect(thread.endTicks == 20)
    #expect(thread.stack == 0x1000..<0x2000)
  }

  @Test("an entry that stays in change, and chains that lead astray, are nobody")
  func damaged() throws {
    let synthetic = SyntheticSegment()
    let slot = synthetic.addThread(id: 5, name: "a", from: 10)
    synthetic.replaceThread(slot: slot, endingAt: 20, by: 6, name: "b", from: 30)
    let segment = try Segment(path: synthetic.path)
    let entry = synthetic.entries(ALLOCS_SECTION_THREADS, as: allocs_thread.self) + Int(slot)
    let former = synthetic.entries(ALLOCS_SECTION_FORMER_THREADS, as: allocs_former_thread.self)
    former[0].previous = 1
    #expect(segment.thread(slot: slot, at: 5) == nil)
    former[0].identity.slot = 9
    #expect(segment.thread(slot: slot, at: 15) == nil)
    entry.pointee.previous = .max
    #expect(segment.thread(slot: slot, at: 15) == nil)
    entry.pointee.sequence += 1
    #expect(segment.thread(slot: slot, at: 35) == nil)
    #expect(segment.threads.isEmpty)
  }
}

@Suite("Time", .bounded)
struct TimeTests {
  private let second: UInt64 = 1_000_000_000

  private func ticks(_ nanoseconds: UInt64) -> UInt32 { allocs_ticks(nanoseconds / second, nanoseconds % second) }

  /// Of a process that has ended; its agent started ten seconds after its machine did, at 1,700,000,000 s.
  private func deadSegment() -> SyntheticSegment {
    let synthetic = SyntheticSegment(processID: 0x3F_FFFF, startTime: 5)
    synthetic.header.pointee.clock = allocs_clock_start(
      monotonic_ns: 10 * second, realtime_ns: 1_700_000_000 * second)
    return synthetic
  }

  @Test("in a running process, an age is the time since then by this machine's clock")
  func live() throws {
    let start = try #require(ownStartTime())
    let synthetic = SyntheticSegment(startTime: start)
    // As if the agent had started two seconds ago.
    let now = SyntheticSegment.nanoseconds(CLOCK_MONOTONIC)
    synthetic.header.pointee.clock.monotonic_ns = now - 2 * second
    synthetic.header.pointee.clock.realtime_ns = 1_700_000_000 * second
    let segment = try Segment(path: synthetic.path)
    #expect(segment.isProcessAlive == true)
    let clock = segment.clock()
    let age = clock.age(ofTicks: ticks(now - second))
    // A tick is 1/64 s; the rest is the time that this test has taken.
    #expect(age >= 1 - 2 / 64 && age <= clock.uptime)
    #expect(abs(clock.wallTime(ofTicks: ticks(now - second)) - 1_700_000_001) < 0.05)
    #expect(clock.age(ofTicks: ticks(now + 100 * second)) == 0)
  }

  @Test("in a dead process, an age is the time since then by the wall clock, of whatever machine")
  func dead() throws {
    let synthetic = deadSegment()
    let segment = try Segment(path: synthetic.path)
    #expect(segment.isProcessAlive == false)
    let clock = segment.clock()
    #expect(clock.wallTime(ofTicks: 640) == 1_700_000_000)
    #expect(clock.wallTime(ofTicks: 640 + 320) == 1_700_000_005)
    let older = clock.age(ofTicks: 640)
    let younger = clock.age(ofTicks: 640 + 320)
    #expect(older - younger > 4.999 && older - younger < 5.001)
    // A minute for a clock that is being set.
    let sinceStart = Double(SyntheticSegment.nanoseconds(CLOCK_REALTIME)) / 1e9 - 1_700_000_000
    #expect(abs(older - sinceStart) < 60)
  }

  @Test("a tick from just before the start, as a coarse clock gives it, is the start")
  func coarse() throws {
    let synthetic = deadSegment()
    let segment = try Segment(path: synthetic.path)
    #expect(segment.clock().wallTime(ofTicks: 639) == 1_700_000_000)
  }

  @Test("ticks count on across the wrap of 31 bits, and of several candidates the last is meant if the process runs")
  func wrap() throws {
    let wrap: UInt64 = 1 << 31
    func clock(elapsed seconds: UInt64, isAlive: Bool) -> SegmentClock {
      // Started 128 ticks before the wrap.
      SegmentClock(
        startMonotonic: (wrap - 128) / 64 * second, startRealtime: 1_700_000_000 * second, elapsed: seconds * second,
        isAlive: isAlive)
    }
    for isAlive in [true, false] {
      let minute = clock(elapsed: 60, isAlive: isAlive)
      #expect(minute.wallTime(ofTicks: 0) == 1_700_000_002)
      #expect(minute.wallTime(ofTicks: 640) == 1_700_000_012)
      #expect(minute.age(ofTicks: 640) == 48)
    }
    // So long ago that the same bits have come again: the process lived to see it, or it didn't.
    let length = wrap / 64
    #expect(clock(elapsed: length + 60, isAlive: true).age(ofTicks: 0) == 58)
    #expect(clock(elapsed: 3 * length + 60, isAlive: true).age(ofTicks: 0) == 58)
    #expect(clock(elapsed: 3 * length + 60, isAlive: false).age(ofTicks: 0) == Double(3 * length + 58))
  }
}

/// Field 22 of /proc/self/stat.
func ownStartTime() -> UInt64? {
  guard let file = fopen("/proc/self/stat", "r") else { return nil }
  defer { fclose(file) }
  var buffer = [UInt8](repeating: 0, count: 4096)
  let count = fread(&buffer, 1, buffer.count, file)
  guard let close = buffer[..<count].lastIndex(of: UInt8(ascii: ")")) else { return nil }
  let fields = buffer[(close + 1)..<count].split(separator: UInt8(ascii: " "))
  return fields.count > 19 ? UInt64(String(decoding: fields[19], as: UTF8.self)) : nil
}

@Suite("Modules that nodes name", .bounded)
struct NamedModuleTests {
  private let synthetic = SyntheticSegment()

  private func holder(_ number: UInt32, pc: UInt64 = 0x1100) throws -> CallHolder {
    let node = synthetic.addNode(pc: pc, flags: number << ALLOCS_NODE_MODULE_SHIFT)
    let segment = try Segment(path: synthetic.path)
    let stack = segment.stack(ofNode: node)
    #expect(stack.holder(ofCallAt: 0) == segment.node(node)?.holder)
    return stack.holder(ofCallAt: 0)
  }

  @Test("what a node says of its module decides between two that lay at the same addresses at the same time")
  func twoAtOnce() throws {
    let range: Range<UInt64> = 0x1000..<0x9000
    let first = UInt32(synthetic.addModule(path: "/first", range: range, loaded: 100, unloaded: 100))
    let later = ALLOCS_MODULE_LATER.rawValue
    let second = UInt32(synthetic.addModule(path: "/second", range: range, loaded: 100, flags: later))
    let segment = try Segment(path: synthetic.path)
    for (index, path) in [(first, "/first"), (second, "/second")] {
      let holder = try holder(index + 1)
      #expect(holder == .module(index))
      #expect(segment.module(of: holder, containing: 0x1100, at: 100)?.path.unescaped == path)
      // It must lie there.
      #expect(segment.module(of: holder, containing: 0x9000, at: 100) == nil)
    }
    // A node that says nothing is older than all that came later.
    #expect(segment.module(of: try holder(0), containing: 0x1100, at: 100)?.path == "/first")
    #expect(segment.module(of: try holder(0), containing: 0x1100, at: 500) == nil)
  }

  @Test("a node that says that its module is none, or found no room, has none at any time")
  func none() throws {
    synthetic.addModule(path: "/there", range: 0x1000..<0x9000)
    let segment = try Segment(path: synthetic.path)
    for (number, expected) in [
      (ALLOCS_NODE_MODULE_NONE, CallHolder.none), (ALLOCS_NODE_MODULE_DROPPED, .dropped),
    ] {
      let holder = try holder(UInt32(number))
      #expect(holder == expected)
      #expect(segment.module(of: holder, containing: 0x1100, at: 1) == nil)
    }
    // An index that leads outside the table.
    #expect(segment.module(of: try holder(7), containing: 0x1100, at: 1) == nil)
  }
}
