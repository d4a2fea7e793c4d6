// SPDX-License-Identifier: Apache-2.0
// The meaning of a fuzzer's bytes for a segment: a script of stores into a sound one, some made while a reader has it
// open.
//
// Random bytes would hardly get past the header's checks. A script starts from a segment with something in every table
// and damages what it names: fields of the header, entries of tables, slots, summary bits, the file's length.
//
// Invariant: `Stage.run` leaves the file as it found it, so a script means the same whatever ran before.

import Glibc
import IndexReader
import SharedLayout
import TestSupport

// lseek(2); the Swift overlay lacks them.
private let seekData: Int32 = 3
private let seekHole: Int32 = 4

/// Reads a script's numbers; zeros once the bytes are at an end.
struct ScriptReader {
  private var bytes: ArraySlice<UInt8>

  init(_ bytes: ArraySlice<UInt8>) { self.bytes = bytes }

  var isAtEnd: Bool { bytes.isEmpty }

  mutating func byte() -> UInt8 { bytes.popFirst() ?? 0 }

  mutating func number(bytes count: Int) -> UInt64 {
    (0..<count).reduce(0) { number, index in number | UInt64(byte()) << UInt64(8 * index) }
  }
}

/// The files of stages: a stage of a target lives as long as the process, and nobody destroys it when that ends.
private enum FilesOfStages {
  nonisolated(unsafe) private static var paths: [String] = []

  static func unlinkAtExit(_ path: String) {
    if paths.isEmpty { atexit { for path in FilesOfStages.paths { unlink(path) } } }
    paths.append(path)
  }
}

/// A sound segment and what a script has changed in it.
final class Stage {
  static let heap: UInt64 = 0x5555_0000_0000

  let synthetic: SyntheticSegment
  private let places: [Int]
  private var changes: [(offset: Int, old: UInt64)] = []
  private var isCut = false

  /// The segment of a process that has ended: PID 0 never runs.
  init(name: String = "0", capacities: SyntheticSegment.Capacities = SyntheticSegment.Capacities()) {
    synthetic = SyntheticSegment(
      processID: 0x7FFF_FFFF, name: "\(name)-\(getpid()).fuzz", capacities: capacities)
    FilesOfStages.unlinkAtExit(synthetic.path)
    places = (0..<Int(ALLOCS_SECTION_SPACE)).map { [synthetic] in
      Int(synthetic.section($0).pointee.offset)
    }
    let thread = synthetic.addThread(id: 4242, name: "worker", from: 1)
    synthetic.replaceThread(slot: thread, endingAt: 5, by: 4243, name: "next", from: 7)
    synthetic.addModule(path: "/usr/bin/program", range: 0x4000_0000..<0x5000_0000, buildID: [1, 2, 3])
    synthetic.addModule(path: "/lib/gone.so", range: 0x6000_0000..<0x6100_0000, loaded: 1, unloaded: 3)
    var node: UInt32 = 0
    for depth in 0..<6 { node = synthetic.addNode(pc: 0x4000_1000 + UInt64(depth) * 16, parent: node) }
    let cut = synthetic.addNode(pc: 0x6000_0010, parent: 40, flags: ALLOCS_NODE_DEPTH_LIMIT.rawValue)
    let contexts = [
      synthetic.addContext(node: node, thread: thread),
      synthetic.addContext(node: synthetic.addNode(pc: 0x4000_3000, parent: cut), function: ALLOCS_FUNCTION_CALLOC),
    ]
    for (index, context) in contexts.enumerated() {
      synthetic.setTotal(ofContext: context, bytes: 1 << 20, blocks: UInt64(1000 * (index + 1)))
    }
    for index in 0..<256 {
      synthetic.allocate(
        Self.heap + UInt64(index) * 0x80, size: UInt64(index % 100), context: contexts[index % 2], ticks: 3)
      synthetic.allocateFine(
        Self.heap + UInt64(index) * 0x80 + 0x70, size: UInt64(index % 9), context: contexts[index % 2], ticks: 3)
    }
    synthetic.allocateFine(Self.heap + 0x5000_0008, size: 300, alignment: 3, context: contexts[1], ticks: 9)
    // A ring that has come round, and one that has hardly begun.
    synthetic.addRing(slot: thread, written: UInt64(ALLOCS_RING_RECORDS_MIN) + 100, context: contexts[0])
    synthetic.addRing(slot: thread, written: 5, context: contexts[1])
    synthetic.allocate(Self.heap + 0x8000, size: 1 << 30, alignment: 12, context: contexts[0], ticks: 9)
    synthetic.allocate(Self.heap + 0x4000_0000, size: 70, context: contexts[1], ticks: 9)
  }

  var path: String { synthetic.path }

  /// Runs `script` and hands the path to `ask`, which says what a reader does; `whileOpen` runs what is left of the
  /// script.
  func run(_ script: ArraySlice<UInt8>, ask: (_ path: String, _ whileOpen: () -> Void) -> Void) {
    var reader = ScriptReader(script)
    step(&reader)
    ask(path) { step(&reader) }
    restore()
  }

  /// Up to the script's mark, or to its end.
  private func step(_ script: inout ScriptReader) {
    // A script's length is bounded by the fuzzer; this bounds a run of marks.
    while !script.isAtEnd {
      switch script.byte() % 10 {
      case 0: return
      case 1: store(at: Int(script.number(bytes: 2)) % Int(ALLOCS_PAGE_SIZE), script.number(bytes: 8))
      case 2:
        // A section's place, size or count.
        let section = Int(script.byte()) % Int(ALLOCS_SECTION_SPACE)
        let field = Int(script.byte()) % 4
        let sections = MemoryLayout<allocs_header>.offset(of: \.sections)!
        store(at: sections + section * MemoryLayout<allocs_section>.size + field * 8, script.number(bytes: 8))
      case 3:
        // An entry of a table, near its start.
        store(at: places[Int(script.byte()) % places.count] + Int(script.number(bytes: 2)) * 8, script.number(bytes: 8))
      case 4:
        // An entry of a table, with a small number: another entry's index, mostly.
        store(at: places[Int(script.byte()) % places.count] + Int(script.byte()) * 8, UInt64(script.byte()))
      case 5:
        let slots = place(ALLOCS_SECTION_ARENAS) + Int(ALLOCS_ARENA_SLOTS_OFFSET)
        store(at: slots + Int(script.number(bytes: 3)) % Int(ALLOCS_ARENA_SLOTS) * 8, script.number(bytes: 8))
      case 6:
        // Summary words of the first arena, of any level.
        store(at: place(ALLOCS_SECTION_ARENAS) + Int(script.number(bytes: 2)) % 8192, script.number(bytes: 8))
      case 7:
        // Region bits and the directory: which arena a region has.
        let region = Int(script.number(bytes: 3)) % SyntheticSegment.regionCount
        store(at: place(ALLOCS_SECTION_DIRECTORY) + region * 4 & ~7, script.number(bytes: 8))
        let levels = place(ALLOCS_SECTION_REGION_BITS)
        let level0 = levels + Int(ALLOCS_REGION_LEVEL0_OFFSET)
        store(at: level0 + region / 64 * 8, ~0)
        store(at: levels + region / 4096 * 8, ~0)
      case 8:
        // Cut, at a page or within one.
        truncate(path, off_t(Int(script.number(bytes: 4)) % (synthetic.size + 1)))
        isCut = true
      default: truncate(path, off_t(synthetic.size))
      }
    }
  }

  /// Where a section begins, whatever the header says meanwhile.
  func place(_ id: allocs_section_id) -> Int { places[Int(id.rawValue)] }

  func store(at offset: Int, _ value: UInt64) {
    let aligned = offset & ~7
    // Bytes that were cut off cannot be written; growing the file again brings zeros.
    guard !isCut, aligned >= 0, aligned + 8 <= synthetic.size else { return }
    let word = (synthetic.start + aligned).assumingMemoryBound(to: UInt64.self)
    changes.append((aligned, word.pointee))
    allocs_store_release_u64(word, value)
  }

  func restore() {
    if isCut { truncate(path, off_t(synthetic.size)) }
    while let change = changes.popLast() {
      (synthetic.start + change.offset).assumingMemoryBound(to: UInt64.self).pointee = change.old
    }
    guard isCut else { return }
    isCut = false
    backup.withUnsafeBytes { saved in
      for (index, offset) in savedPages.enumerated() {
        (synthetic.start + offset).copyMemory(
          from: saved.baseAddress! + index * Int(ALLOCS_PAGE_SIZE), byteCount: Int(ALLOCS_PAGE_SIZE))
      }
    }
  }

  // MARK: what a cut takes away

  private lazy var savedPages: [Int] = []
  private lazy var backup: [UInt8] = []

  /// Copies every page that holds something. Before the first script.
  func save() {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    defer { close(descriptor) }
    var offset: off_t = 0
    while true {
      let start = lseek(descriptor, offset, seekData)
      guard start >= 0 else { break }
      let end = lseek(descriptor, start, seekHole)
      for page in stride(from: start, to: end, by: Int(ALLOCS_PAGE_SIZE)) {
        savedPages.append(Int(page))
        backup += UnsafeRawBufferPointer(start: synthetic.start + Int(page), count: Int(ALLOCS_PAGE_SIZE))
      }
      offset = end
    }
  }
}
