// SPDX-License-Identifier: Apache-2.0
// ForkedChild: the first thing that runs in a child of fork.
//
// The words that led to the parent's segment have been wiped, and the segment is not mapped here.
// If the child is followed (ALLOCS_FOLLOW=1), it gets its own segment in the same place
// (ForkCopy.swift). Else it records nothing.
//
// One hook may still hold an address in the parent's segment: a hook that was interrupted, at any
// instruction, on the thread that then called fork in a signal handler. It will write there when it
// goes on. So the child puts private memory of its own wherever the parent's segment was mapped,
// with the parent's sections in its header. A mapping is noted in the process's lists before it is
// first written to (AnchoredSection.swift). The test is stepped.c, which forks at every
// instruction.

import AgentMachine
import SharedLayout

enum ForkedChild {
  static func started() {
    let process = allocs_process()
    var wantsEvents = false
    if process.pointee.has_control != 0 {
      wantsEvents = allocs_control().pointee.always == ALLOCS_ALWAYS.rawValue
      System.mapOver(UnsafeMutableRawPointer(allocs_control()), UInt64(ALLOCS_PAGE_SIZE))
      process.pointee.has_control = 0
    }
    if ForkCopy.takeOver(wantsEvents: wantsEvents) { return }
    if allocs_may_hold_segment() { replaceSegment(process) }
  }

  /// Puts private memory where the parent has its segment.
  private static func replaceSegment(_ process: UnsafeMutablePointer<allocs_process>) {
    if let fixed = process.pointee.fixed_base {
      System.mapOver(fixed, process.pointee.fixed_size)
      // The interrupted hook will count the allocation in its thread's entry, and finish the event
      // that it was recording. Its block was wiped, and has forgotten where these are.
      let memory = UnsafeMutableRawPointer(fixed)
      let header = memory.assumingMemoryBound(to: allocs_header.self)
      // The hook may ask next where a section lies, or divide by the size of its entries.
      for id in 0..<Int(ALLOCS_SECTION_SPACE) {
        let kept = allocs_kept_sections() + id
        let section = Segment.section(header, allocs_section_id(UInt32(id)))
        section.pointee.offset = kept.pointee.offset
        section.pointee.entry_size = kept.pointee.entry_size
        section.pointee.capacity = kept.pointee.capacity
      }
      // The interrupted hook will count the allocation in its thread's entry, and finish the event
      // that it was recording. Its block was wiped, and has forgotten where these are: any entry
      // and any ring will do.
      let block = allocs_registered_block()
      block?.pointee.entry = Segment.start(header, ALLOCS_SECTION_THREADS).assumingMemoryBound(to: allocs_thread.self)
      let nodes = Segment.start(header, ALLOCS_SECTION_NODES)
      let ring = allocs_ring_mappings()[0].map { UnsafeMutableRawPointer($0) } ?? nodes
      block?.pointee.events.ring = ring.assumingMemoryBound(to: allocs_ring.self)
      block?.pointee.events.records = ring.assumingMemoryBound(to: allocs_event.self)
      block?.pointee.events.contexts = UnsafePointer(
        Segment.start(header, ALLOCS_SECTION_CONTEXTS).assumingMemoryBound(to: UInt64.self))
    }
    replace(allocs_arena_mappings(), most: Int(ALLOCS_MAPPED_ARENAS), UInt64(ALLOCS_ARENA_STRIDE))
    replace(allocs_nested_mappings(), most: Int(ALLOCS_NESTED_CAPACITY), UInt64(ALLOCS_NESTED_STRIDE))
    replace(allocs_ring_mappings(), most: Int(ALLOCS_MAPPED_RINGS), process.pointee.ring_size)
  }

  /// `mappings` ends with a null pointer, or after `most` of them; each has `size` bytes.
  private static func replace(
    _ mappings: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>, most: Int, _ size: UInt64
  ) {
    var index = 0
    while index < most, let mapping = mappings[index] {
      System.mapOver(mapping, size)
      index += 1
    }
  }
}
