// SPDX-License-Identifier: Apache-2.0
// Events: writes records of what happened into the thread's ring, while somebody wants them
// (allocs_control.h).
//
// Invariants:
// - A ring has one writer, the thread whose block it belongs to. `recording` is set while that
//   thread writes a record. A signal handler that interrupts it there counts its own allocations
//   and frees, and leaves the ring alone.
// - A record is whole before `written` counts it (release). It was announced before it was begun
//   (Rings.swift).
// - The rings have the events of the blocks that the index records, except for events that are
//   counted as lost. A block without a slot has no events either.
// - An allocation is recorded after the allocator returned the block, and a free before the block
//   goes back. Each gets the stamp that was taken there (Stamps.swift).

import AgentMachine
import SharedLayout

enum Events {
  /// Whether events are on. Costs one load.
  @inline(__always)
  static var areOn: Bool { allocs_events_period() != 0 }

  // MARK: a record

  /// Makes the thread's ring ready for one record, which `append` writes and `end` closes. False if
  /// events are off, or if the event cannot be recorded, which is counted. May wait for a lossless
  /// consumer, unless `isInner`: then the caller may be a signal handler.
  @inline(__always)
  static func begin(_ thread: Thread, isInner: Bool = false) -> Bool {
    guard thread.pointee.events.recording == 0 else { return isNested(thread) }
    thread.pointee.events.recording = 1
    allocs_fence_signal()
    if thread.pointee.events.position != thread.pointee.events.announced,
      thread.pointee.events.period == allocs_events_period()
    {
      return true
    }
    return Rings.prepare(thread, isInner: isInner)
  }

  /// Makes the ring ready for one record of a thread in its outermost hook, if nothing has to be
  /// done for that. If it gives false, the ring is not ready, but `end` has to follow in either
  /// case. Calls nothing.
  @inline(__always)
  static func beginKnown(_ thread: Thread) -> Bool {
    thread.pointee.events.recording = 1
    allocs_fence_signal()
    return thread.pointee.events.position != thread.pointee.events.announced
      && thread.pointee.events.period == allocs_events_period()
  }

  @inline(__always)
  static func end(_ thread: Thread) {
    allocs_fence_signal()
    thread.pointee.events.recording = 0
  }

  /// Counts an event that interrupted the recording of another. Gives false.
  @inline(never)
  private static func isNested(_ thread: Thread) -> Bool {
    Index.count(ALLOCS_COUNTER_EVENTS_NESTED)
    if let ring = thread.pointee.events.ring { ring.pointee.unrecorded &+= 1 }
    return false
  }

  @inline(__always)
  static func append(
    _ thread: Thread, _ kind: allocs_event_kind, _ address: UInt, _ size: UInt64, alignment: UInt32 = 0,
    context: UInt32 = 0, origin: UInt32 = 0, stamp: UInt64
  ) {
    let position = thread.pointee.events.position
    let record = UnsafeMutableRawPointer(
      thread.pointee.events.records + Int(truncatingIfNeeded: position & thread.pointee.events.mask)
    ).assumingMemoryBound(to: UInt64.self)
    allocs_store_relaxed_u64(record, allocs_event_place(kind.rawValue, UInt64(address), alignment))
    allocs_store_relaxed_u64(record + 1, allocs_event_extent(size, thread.pointee.events.slot))
    allocs_store_relaxed_u64(record + 2, allocs_event_source(context, origin))
    allocs_store_relaxed_u64(record + 3, stamp)
    thread.pointee.events.position = position &+ 1
    // Pairs with the reader's acquire: a reader that sees the number sees the record.
    allocs_store_release_u64(&thread.pointee.events.ring.pointee.written, position &+ 1)
  }

  // MARK: other events than allocations and frees

  /// Records that the thread is about to end.
  static func threadEnds(_ thread: Thread) {
    guard areOn, thread.pointee.events.ring != nil, begin(thread) else { return }
    append(
      thread, ALLOCS_EVENT_THREAD_END, UInt(thread.pointee.tid),
      UInt64(thread.pointee.entry.pointee.identity.start_ticks), stamp: Stamps.next(thread))
    end(thread)
  }

  /// Records that a mapping came or went. `detail` goes to the record's `origin`. `isInner`: the
  /// thread is inside another hook, maybe in a signal handler. While another thread forks, an inner
  /// event is counted as lost, because the thread's region table is away and it must not wait.
  @inline(never)
  static func mapping(
    _ thread: Thread, _ kind: allocs_event_kind, _ address: UInt, _ size: UInt64, context: UInt32, detail: UInt32,
    isInner: Bool
  ) {
    guard areOn, Gate.isIndexed(thread) else { return }
    guard isInner ? thread.pointee.regions != nil : Gate.regions(thread) != nil else {
      return Index.count(ALLOCS_COUNTER_EVENTS_UNRECORDED)
    }
    guard begin(thread, isInner: isInner) else { return }
    append(
      thread, kind, address, size & (1 << 48 - 1), context: context, origin: detail, stamp: Stamps.next(thread))
    end(thread)
  }

  // MARK: modules

  // `news` in allocs_shared is a queue of modules that came or went, whose events wait to be
  // recorded.

  /// Notes that a module was loaded or unloaded. The caller holds the lock, and calls
  /// `recordModules` when it has given the lock back.
  static func noteModule(_ shared: UnsafeMutablePointer<allocs_shared>, module index: UInt32, isUnloaded: Bool) {
    guard areOn else { return }
    let end = shared.pointee.news_end
    guard end &- shared.pointee.news_first < ALLOCS_NEWS_COUNT else {
      Index.count(ALLOCS_COUNTER_EVENTS_UNRECORDED)
      return
    }
    allocs_news(shared)[Int(end % ALLOCS_NEWS_COUNT)] = (index + 1) | (isUnloaded ? ALLOCS_NEWS_UNLOADED : 0)
    shared.pointee.news_end = end &+ 1
  }

  /// Records the modules that `noteModule` has noted, in the calling thread's ring.
  static func recordModules(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) {
    guard shared.pointee.news_first != shared.pointee.news_end, let thread = allocs_registered_block(),
      thread.pointee.regions != nil
    else { return }
    while true {
      let news = locked(shared) { () -> UInt32 in
        guard shared.pointee.news_first != shared.pointee.news_end else { return 0 }
        let news = allocs_news(shared)[Int(shared.pointee.news_first % ALLOCS_NEWS_COUNT)]
        shared.pointee.news_first &+= 1
        return news
      }
      guard news != 0 else { return }
      guard areOn, begin(thread) else { continue }
      let index = news & ~ALLOCS_NEWS_UNLOADED &- 1
      let module = SegmentTable<allocs_module>(header, ALLOCS_SECTION_MODULES)[Int(index)]
      append(
        thread, news & ALLOCS_NEWS_UNLOADED != 0 ? ALLOCS_EVENT_MODULE_UNLOAD : ALLOCS_EVENT_MODULE_LOAD,
        UInt(module.pointee.start), module.pointee.end - module.pointee.start, context: index,
        stamp: Stamps.next(thread))
      end(thread)
    }
  }
}
