// SPDX-License-Identifier: Apache-2.0
// Stack+Memo: the stacks that a thread has captured more than once, each with its node and with all
// words of the stack that a capture of it reads. The head of Stack.swift says why a stack that has
// these words is that stack.
//
// A record is found in two steps. Return address and stack pointer lead to a *door*, which says at
// which places the stacks behind it have been found to differ; the words at two of those places,
// hashed, lead to a set of four ways, of which the way found last comes first. A record that
// captures have found twice in a row is looked at before that, without its door: loops allocate at
// one place. All words of the record are compared then, without a branch. A word is read only after
// the stack pointer has been compared: all words lie between the stack pointer and the end of the
// thread's own stack, whose bounds never change. So they may be read, whatever they hold by now.
//
// Records lie one behind the other. When the room is used up, its oldest part is used again, and
// the ways that lead into that part are emptied.
//
// Only the thread itself changes its memo, and a signal handler that interrupts it does not look
// there: its hooks run inside the interrupted hook, and capture only while that hook is delegating
// and not capturing. `Stack.node`, which such a hook calls, counts as capturing while it looks. A
// thread that has jumped out of a change has its memo emptied (LeftCalls.swift).

import AgentMachine
import SharedLayout

extension Stack {
  private typealias Record = UnsafeMutablePointer<allocs_record>
  private typealias Door = UnsafeMutablePointer<allocs_memo_door>
  private typealias Group = UnsafeMutablePointer<allocs_word_group>

  /// The context of a malloc by libc with the caller's stack, as Contexts.known gives it, if the
  /// stack's record is looked at first, and has the context; else nil. Calls nothing.
  @inline(__always)
  static func knownContext(_ thread: Thread, _ caller: Caller) -> UInt64? {
    guard let record = likelyRecord(thread, caller) else { return nil }
    let context = record.pointee.context
    // Of another function, the sign is set.
    return Int64(bitPattern: context) > 0 ? context : nil
  }

  /// As `knownContext`, of another function or allocator, which `others` says as Contexts.others
  /// does; in a hook that is not delegating, so that no handler changes the memo meanwhile.
  @inline(__always)
  static func knownContext(_ thread: Thread, _ caller: Caller, _ others: UInt64) -> UInt64? {
    guard let record = likelyRecord(thread, caller) else { return nil }
    let context = record.pointee.context
    return context & othersMask == kept(others) ? context & ~othersMask : nil
  }

  private static var othersMask: UInt64 { 0xFFFF << 48 }

  /// How a record says that its context is not of malloc by libc, but of `others`: no context has
  /// these bits.
  @inline(__always)
  private static func kept(_ others: UInt64) -> UInt64 { others == 0 ? 0 : others | 1 << 63 }

  /// The node of the caller's stack, if its record is looked at first; else 0. Calls nothing.
  @inline(__always)
  static func known(_ thread: Thread, _ caller: Caller) -> UInt32 {
    likelyRecord(thread, caller)?.pointee.node ?? 0
  }

  /// The record of the caller's stack, if it is the one that the captures before have found again
  /// and again, or in the first way; else nil.
  @inline(__always)
  private static func likelyRecord(_ thread: Thread, _ caller: Caller) -> Record? {
    guard let memo = allocs_open_memo(thread) else { return nil }
    guard let place = likelyPlace(memo, caller) else { return nil }
    let record = record(memo, place)
    guard allocs_record_is_of(record, caller.stackPointer, caller.framePointer) else { return nil }
    memo.pointee.again = place == memo.pointee.found ? place : ALLOCS_MEMO_NOWHERE
    memo.pointee.found = place
    return record
  }

  /// The place of a record with the caller's registers, which is likely the one of the caller's
  /// stack.
  @inline(__always)
  private static func likelyPlace(_ memo: UnsafeMutablePointer<allocs_memo>, _ caller: Caller) -> UInt32? {
    let again = memo.pointee.again
    if again != ALLOCS_MEMO_NOWHERE, hasRegisters(record(memo, again), caller) { return again }
    guard let door = door(memo, caller) else { return nil }
    let (set, tag) = place(memo, door, caller)
    let first = allocs_memo_places(set)[0]
    return allocs_memo_tags(set)[0] == tag && hasRegisters(record(memo, first), caller) ? first : nil
  }

  /// Keeps the context of an allocation whose stack has `node`, and was captured last, in the
  /// record of that stack, if it has one. `bits`: the context, where the head of a slot has it.
  /// `others` says of which function and allocator, as Contexts.others does. A record has the last
  /// one.
  @inline(__always)
  static func keep(_ thread: Thread, _ node: UInt64, _ bits: UInt64, _ others: UInt64) {
    guard let memo = allocs_stacks(thread).pointee.memo, memo.pointee.found != ALLOCS_MEMO_NOWHERE else { return }
    let record = record(memo, memo.pointee.found)
    if UInt64(record.pointee.node) == node { record.pointee.context = bits | kept(others) }
  }

  /// The node of the caller's stack if its record is in one of the ways, the first of them from now
  /// on; else 0.
  @inline(__always)
  static func known(_ memo: UnsafeMutablePointer<allocs_memo>, _ caller: Caller) -> UInt32 {
    forgetLast(memo)
    guard let door = door(memo, caller) else { return 0 }
    let (set, tag) = place(memo, door, caller)
    for way in 0..<Int(ALLOCS_MEMO_WAYS) where allocs_memo_tags(set)[way] == tag {
      let place = allocs_memo_places(set)[way]
      let record = record(memo, place)
      if isStack(record, caller) {
        putFirst(set, tag, place, from: way)
        memo.pointee.found = place
        return record.pointee.node
      }
    }
    return 0
  }

  /// No record counts as found before.
  @inline(__always)
  private static func forgetLast(_ memo: UnsafeMutablePointer<allocs_memo>) {
    memo.pointee.found = ALLOCS_MEMO_NOWHERE
    memo.pointee.again = ALLOCS_MEMO_NOWHERE
  }

  /// Makes a record the first of the set's ways, in which it lies at `way` or, if that is the last,
  /// perhaps not at all. The ways before move up.
  @inline(__always)
  private static func putFirst(
    _ set: UnsafeMutablePointer<allocs_memo_set>, _ tag: UInt32, _ place: UInt32, from way: Int
  ) {
    let tags = allocs_memo_tags(set)
    let places = allocs_memo_places(set)
    for other in (0..<way).reversed() {
      tags[other + 1] = tags[other]
      places[other + 1] = places[other]
    }
    tags[0] = tag
    places[0] = place
  }

  @inline(__always)
  private static func hash(_ value: UInt64) -> UInt64 { value &* 0x9E37_79B9_7F4A_7C15 }

  /// Of the registers, for the hashes.
  @inline(__always)
  private static func key(_ caller: Caller) -> UInt64 { caller.site << 24 &+ caller.stackPointer }

  /// The first of the two doors that may be the caller's.
  @inline(__always)
  private static func doors(_ memo: UnsafeMutablePointer<allocs_memo>, _ caller: Caller) -> Door {
    allocs_memo_doors(memo) + Int(hash(key(caller)) >> UInt64(ALLOCS_DOOR_SHIFT)) * 2
  }

  @inline(__always)
  private static func isDoor(_ door: Door, _ caller: Caller) -> Bool {
    door.pointee.sp == caller.stackPointer && door.pointee.pc == caller.site
  }

  @inline(__always)
  private static func door(_ memo: UnsafeMutablePointer<allocs_memo>, _ caller: Caller) -> Door? {
    let door = doors(memo, caller)
    if isDoor(door, caller) { return door }
    return isDoor(door + 1, caller) ? door + 1 : nil
  }

  /// The set for the caller's stack, which is behind `door`, and the tag that the stack has there.
  @inline(__always)
  private static func place(
    _ memo: UnsafeMutablePointer<allocs_memo>, _ door: Door, _ caller: Caller
  ) -> (UnsafeMutablePointer<allocs_memo_set>, tag: UInt32) {
    func word(_ offset: Int32) -> UInt64 { load(caller.stackPointer &+ UInt64(bitPattern: Int64(offset))) }
    let hash = hash(
      key(caller) &+ word(door.pointee.offset) << 5 &+ word(door.pointee.other_offset) << 17)
    return (
      allocs_memo_sets(memo) + Int(hash >> UInt64(ALLOCS_MEMO_SHIFT)), UInt32(truncatingIfNeeded: hash >> 20) | 1
    )
  }

  @inline(__always)
  private static func record(_ memo: UnsafeMutablePointer<allocs_memo>, _ place: UInt32) -> Record {
    UnsafeMutableRawPointer(allocs_memo_room(memo) + Int(place)).assumingMemoryBound(to: allocs_record.self)
  }

  @inline(__always)
  private static func groups(_ record: Record) -> Group {
    UnsafeMutableRawPointer(record + 1).assumingMemoryBound(to: allocs_word_group.self)
  }

  /// Whether the record is of the caller's stack.
  @inline(__always)
  private static func isStack(_ record: Record, _ caller: Caller) -> Bool {
    hasRegisters(record, caller) && allocs_record_is_of(record, caller.stackPointer, caller.framePointer)
  }

  @inline(__always)
  private static func hasRegisters(_ record: Record, _ caller: Caller) -> Bool {
    record.pointee.sp == caller.stackPointer && record.pointee.pc == caller.site
  }

  // MARK: changes

  /// Puts the stack that was walked into the memo, as the stack of `node`, if all its words are
  /// known and lie in the thread's own stack, on which `caller` is.
  @inline(never)
  static func remember(_ thread: Thread, _ caller: Caller, _ walk: Walk, _ node: UInt32) {
    guard walk.end & ALLOCS_NODE_TRUNCATED.rawValue == 0, let memo = allocs_stacks(thread).pointee.memo ?? made(thread)
    else { return }
    let outer = walk.joined > 0 ? allocs_listed(thread) + (walk.joined - 1) : nil
    let outerCount = outer.map { Int($0.pointee.words) } ?? 0
    let place = room(thread, memo, for: outerCount + mostWords * walk.count)
    let record = record(memo, place)
    var words = Words(sp: caller.stackPointer, groups: groups(record))
    words.append(allocs_list_words(thread), outerCount)
    // Whether the frames further out depend on the value that the frame pointer register has there.
    var needsFramePointer = outer.map { $0.pointee.needs_fp != 0 } ?? false
    for index in (0..<walk.count).reversed() {
      let frame = allocs_frames(thread) + Int(allocs_met_frames(thread)[index])
      guard words.append(frame, &needsFramePointer) else { return }
    }
    guard words.allFit else { return }
    let groups = words.finish()
    record.pointee = allocs_record(
      pc: caller.site, sp: caller.stackPointer, fp: caller.framePointer, fp_mask: needsFramePointer ? .max : 0,
      node: node, groups: UInt32(truncatingIfNeeded: groups), context: 0)
    let size = self.size(groups)
    allocs_stacks(thread).pointee.memo_used = place + size
    allocs_stacks(thread).pointee.memo_left -= size
    let door = madeDoor(memo, caller)
    var (set, tag) = self.place(memo, door, caller)
    if let offset = difference(memo, set, tag, caller), door.pointee.changes < mostChanges {
      door.pointee.changes += 1
      door.pointee.other_offset = door.pointee.offset
      door.pointee.offset = offset
      (set, tag) = self.place(memo, door, caller)
    }
    putFirst(set, tag, place, from: Int(ALLOCS_MEMO_WAYS) - 1)
    memo.pointee.found = place
  }

  /// How often a door's places may change. With each change, the records that were found by the
  /// former places are lost.
  private static var mostChanges: UInt32 { 8 }

  /// The caller's door, which is made if there is none: then the pair's first door is forgotten
  /// last.
  @inline(__always)
  private static func madeDoor(_ memo: UnsafeMutablePointer<allocs_memo>, _ caller: Caller) -> Door {
    if let door = door(memo, caller) { return door }
    let door = doors(memo, caller)
    door[1] = door[0]
    door[0] = allocs_memo_door(
      pc: caller.site, sp: caller.stackPointer, offset: ALLOCS_DOOR_NOWHERE, other_offset: ALLOCS_DOOR_NOWHERE,
      changes: 0, unused: 0)
    return door
  }

  /// The distance from the stack pointer of a word in which the caller's stack differs from a stack
  /// that the set has with the same tag. The innermost such word is taken.
  @inline(__always)
  private static func difference(
    _ memo: UnsafeMutablePointer<allocs_memo>, _ set: UnsafeMutablePointer<allocs_memo_set>, _ tag: UInt32,
    _ caller: Caller
  ) -> Int32? {
    for way in 0..<Int(ALLOCS_MEMO_WAYS) where allocs_memo_tags(set)[way] == tag {
      let record = record(memo, allocs_memo_places(set)[way])
      guard record.pointee.sp == caller.stackPointer, record.pointee.pc == caller.site else { continue }
      for group in (0..<Int(record.pointee.groups)).reversed() {
        let offsets = allocs_group_offsets(groups(record) + group)
        let values = allocs_group_values(groups(record) + group)
        for index in (0..<Int(ALLOCS_GROUP_WORDS)).reversed()
        where load(caller.stackPointer &+ UInt64(offsets[index]) * 8) != values[index] {
          return Int32(offsets[index]) * 8
        }
      }
    }
    return nil
  }

  /// Words that a step from one frame has read, at most, of the kinds that a record may have.
  private static var mostWords: Int { 3 }

  /// The words of a record under way, outermost first.
  private struct Words {
    let sp: UInt64
    let groups: Group
    var count = 0
    private var distances: UInt64 = 0  // from the stack pointer, those of all words together

    init(sp: UInt64, groups: Group) {
      self.sp = sp
      self.groups = groups
    }

    /// Whether a record can say where all the words are.
    @inline(__always) var allFit: Bool { distances & UInt64(ALLOCS_DISTANCE_REST) == 0 }

    /// The first `count` words of a list, to a record that has none yet.
    @inline(__always)
    mutating func append(_ list: UnsafeMutablePointer<allocs_words>, _ count: Int) {
      distances |= allocs_record_put_all(groups, list, UInt64(count), sp)
      self.count = count
    }

    @inline(__always)
    private mutating func append(_ address: UInt64) {
      distances |= allocs_record_put(groups, UInt64(count), sp, address, load(address))
      count += 1
    }

    /// The words that the step from `frame` has read (Registers.step). `needsFramePointer` is said
    /// of the caller's frame before, of `frame` after. False if the step has other inputs, too.
    @inline(__always)
    mutating func append(_ frame: Frame, _ needsFramePointer: inout Bool) -> Bool {
      let rule = FrameRule(bits: frame.pointee.rule)
      guard rule.isFrame else { return appendUncommon(frame, rule, &needsFramePointer) }
      append(frame.pointee.cfa &- rule.returnAddress)
      if needsFramePointer, rule.savesFramePointer {
        append(frame.pointee.cfa &- rule.framePointer)
        needsFramePointer = false
      }
      if rule.needsFramePointer { needsFramePointer = true }
      return true
    }

    @inline(never)
    private mutating func appendUncommon(
      _ frame: Frame, _ rule: FrameRule, _ needsFramePointer: inout Bool
    ) -> Bool {
      let fp = frame.pointee.fp
      switch rule.kind {
      case .outermost: needsFramePointer = false
      case .realigned:
        append(fp &- rule.offset)
        append(fp)
        append(load(fp &- rule.offset) &- 8)
        needsFramePointer = true
      case .withoutInformation:
        append(fp)
        append(fp &+ 8)
        needsFramePointer = true
      case .frame, .signalFrame, .unstored, .unsupported, .none: return false
      }
      return true
    }

    /// Fills the last group up with a word that is there already. Gives the number of groups.
    @inline(__always)
    mutating func finish() -> Int {
      let groupWords = Int(ALLOCS_GROUP_WORDS)
      guard count % groupWords != 0 else { return count / groupWords }
      let last = groups + count / groupWords
      for other in count % groupWords..<groupWords {
        allocs_group_offsets(last)[other] = allocs_group_offsets(last)[0]
        allocs_group_values(last)[other] = allocs_group_values(last)[0]
      }
      return count / groupWords + 1
    }
  }

  /// Bytes of a record with so many groups.
  @inline(__always)
  private static func size(_ groups: Int) -> UInt32 {
    UInt32(truncatingIfNeeded: MemoryLayout<allocs_record>.size + groups * MemoryLayout<allocs_word_group>.size)
  }

  /// Where a record of up to `count` words can be written.
  @inline(__always)
  private static func room(_ thread: Thread, _ memo: UnsafeMutablePointer<allocs_memo>, for count: Int) -> UInt32 {
    let stacks = allocs_stacks(thread)
    let most = size(count / Int(ALLOCS_GROUP_WORDS) + 1)
    if stacks.pointee.memo_left < most {
      let next = (stacks.pointee.memo_used + ALLOCS_MEMO_PART - 1) / ALLOCS_MEMO_PART % ALLOCS_MEMO_PARTS
      stacks.pointee.memo_used = next * ALLOCS_MEMO_PART
      stacks.pointee.memo_left = ALLOCS_MEMO_PART
      allocs_memo_empty(memo, next)
    }
    return stacks.pointee.memo_used
  }

  /// Empties the thread's memo, if it has been used since it was empty.
  static func forgetAll(_ thread: Thread) {
    let stacks = allocs_stacks(thread)
    guard let memo = stacks.pointee.memo, stacks.pointee.memo_used | stacks.pointee.memo_left != 0 else { return }
    for index in 0..<Int(ALLOCS_MEMO_SETS) {
      for way in 0..<Int(ALLOCS_MEMO_WAYS) { allocs_memo_tags(allocs_memo_sets(memo) + index)[way] = 0 }
    }
    for index in 0..<Int(ALLOCS_MEMO_DOORS) { allocs_memo_doors(memo)[index].pc = 0 }
    forgetLast(memo)
    stacks.pointee.memo_used = 0
    stacks.pointee.memo_left = 0
  }

  /// A memo for the thread, which has none; nil if there is no memory.
  @inline(never)
  private static func made(_ thread: Thread) -> UnsafeMutablePointer<allocs_memo>? {
    let stacks = allocs_stacks(thread)
    guard stacks.pointee.memo_refused == 0 else { return nil }
    let size = (UInt64(MemoryLayout<allocs_memo>.size) + 4095) & ~4095
    guard let memory = System.map(size) else {
      stacks.pointee.memo_refused = 1
      return nil
    }
    Mappings.noteOwn(memory, size)
    let memo = memory.assumingMemoryBound(to: allocs_memo.self)
    forgetLast(memo)
    stacks.pointee.memo = memo
    return memo
  }
}
