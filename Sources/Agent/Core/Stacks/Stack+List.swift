// SPDX-License-Identifier: Apache-2.0
// Stack+List: the node of a stack that was walked, and the list of the frames that two walks in a
// row have met. The head of Stack.swift says why they are kept.

import AgentMachine
import SharedLayout

extension Stack {
  // MARK: the node

  /// The node of the stack that was walked; 0 if it cannot be recorded.
  @inline(__always)
  static func node(_ thread: Thread, _ shared: Shared, _ header: Header, _ walk: Walk) -> UInt32 {
    if walk.joined == 0 || walk.unresolved > 0 || walk.excess > 0 {
      return resolvedNode(thread, shared, header, walk)
    }
    let frames = allocs_frames(thread)
    if walk.repeated > 0 { list(thread, walk, from: walk.joined) }
    return walk.count > 0
      ? frames[Int(allocs_met_frames(thread)[0])].node
      : allocs_listed(thread)[walk.joined - 1].node
  }

  /// The node of a stack of which some frames have no node yet, or nodes that were made from
  /// others.
  @inline(never)
  private static func resolvedNode(_ thread: Thread, _ shared: Shared, _ header: Header, _ walk: Walk) -> UInt32 {
    let frames = allocs_frames(thread)
    let met = allocs_met_frames(thread)
    var walk = walk
    var joined = walk.joined
    var unresolved = walk.unresolved
    var end = walk.end
    var cut = walk.cut
    if walk.excess > 0 {
      // The outermost frames are cut off. With them goes the root of all nodes, so all are found
      // anew.
      let excess = walk.excess
      cut = thread.pointee.frames_cut &+ UInt32(truncatingIfNeeded: excess)
      end = ALLOCS_NODE_DEPTH_LIMIT.rawValue
      joined = max(0, joined - excess)
      walk.drop(max(0, excess - walk.joined))
      unresolved = walk.count
      guard joined == 0 || shorten(thread, shared, header, walk.joined, by: excess) else {
        thread.pointee.frame_count = 0
        return 0
      }
    }
    var parent: UInt32
    if joined > 0 {
      parent = allocs_listed(thread)[joined - 1].node
    } else {
      let outermost = frames + Int(met[walk.count - 1])
      parent = StackNodes.child(
        thread, shared, header, CutFrames.rounded(cut), outermost.pointee.pc & ~Registers.interrupted,
        StackNodes.flags(outermost.pointee.pc, isOutermost: true, end))
      unresolved = walk.count - 1
      outermost.pointee.node = parent
      outermost.pointee.parent = 0
    }
    if unresolved < walk.count { parent = frames[Int(met[unresolved])].node }
    while unresolved > 0, parent != 0 {
      unresolved -= 1
      let frame = frames + Int(met[unresolved])
      if frame.pointee.parent != parent {
        let pc = frame.pointee.pc
        var made = 0
        var node = StackNodes.child(
          thread, shared, header, parent, pc & ~Registers.interrupted, StackNodes.flags(pc, isOutermost: false, 0),
          before: unresolved, made: &made
        ) { frames[Int(met[unresolved - 1 - $0])].pc }
        // If ids or memory have run out, the next walk asks again.
        frame.pointee.parent = node == 0 ? 0 : parent
        frame.pointee.node = node
        for _ in 0..<made {
          unresolved -= 1
          let inner = frames + Int(met[unresolved])
          inner.pointee.parent = node
          node += 1
          inner.pointee.node = node
        }
        parent = node
      } else {
        parent = frame.pointee.node
      }
    }
    if walk.repeated > 0, parent != 0 {
      if joined == 0 { thread.pointee.frames_cut = cut }
      list(thread, walk, from: joined)
    }
    return parent
  }

  // MARK: the list

  /// Puts the repeated frames of the walk behind the first `count` entries of the list.
  @inline(never)
  private static func list(_ thread: Thread, _ walk: Walk, from count: Int) {
    let frames = allocs_frames(thread)
    let listed = allocs_listed(thread)
    let met = allocs_met_frames(thread)
    var count = count
    for next in (walk.count - walk.repeated..<walk.count).reversed() {
      let frame = frames + Int(met[next])
      let rule = FrameRule(bits: frame.pointee.rule)
      var needsFramePointer = rule.needsFramePointer
      var words: UInt16 = 0
      // No word is noted for the outermost frame. If the stack goes on beyond that frame, the list
      // says nothing of what lies there.
      if count > 0 {
        let outer = listed[count - 1]
        var list = Words(all: allocs_list_words(thread), count: Int(outer.words))
        if rule.isFrame {
          list.append(frame.pointee.cfa &- rule.returnAddress)
          if outer.needs_fp != 0 {
            if rule.savesFramePointer {
              list.append(frame.pointee.cfa &- rule.framePointer)
            } else {
              needsFramePointer = true
            }
          }
        } else {
          noteUncommon(&list, frame, frames + Int(outer.frame), rule)
        }
        words = UInt16(truncatingIfNeeded: list.count)
      }
      frame.pointee.list_index = UInt32(truncatingIfNeeded: count)
      listed[count] = allocs_listed(
        fp: frame.pointee.fp, node: frame.pointee.node, frame: met[next], words: words,
        needs_fp: needsFramePointer ? 1 : 0)
      count += 1
    }
    thread.pointee.frame_count = UInt32(truncatingIfNeeded: count)
  }

  /// The first words of the list.
  private struct Words {
    let all: UnsafeMutablePointer<allocs_words>
    var count: Int

    @inline(__always)
    mutating func append(_ address: UInt64) {
      allocs_words_put(all, UInt64(count), address, load(address))
      count += 1
    }
  }

  /// The words that a step of an uncommon kind has read; see Registers.step.
  @inline(never)
  private static func noteUncommon(
    _ list: inout Words, _ frame: Frame, _ outer: Frame, _ rule: FrameRule
  ) {
    let (sp, fp) = (frame.pointee.sp, frame.pointee.fp)
    switch rule.kind {
    case .realigned:
      list.append(fp &- rule.offset)
      list.append(fp)
      list.append(outer.pointee.sp &- 8)
    case .withoutInformation:
      list.append(fp)
      list.append(fp &+ 8)
    case .signalFrame:
      list.append(sp &+ Machine.interruptedFramePointer)
      list.append(sp &+ Machine.interruptedStackPointer)
      list.append(sp &+ Machine.interruptedCounter)
      if let interruptedLink = Machine.interruptedLink { list.append(sp &+ interruptedLink) }
    case .frame, .unstored, .outermost, .unsupported, .none:
      break  // a step of these kinds reads registers alone
    }
  }

  /// Cuts the outermost `excess` of the list's first `count` frames off, and finds the nodes of the
  /// others anew, as their root is another one. False if a node cannot be recorded.
  @inline(never)
  private static func shorten(
    _ thread: Thread, _ shared: Shared, _ header: Header, _ count: Int, by excess: Int
  ) -> Bool {
    let frames = allocs_frames(thread)
    let listed = allocs_listed(thread)
    let words = allocs_list_words(thread)
    thread.pointee.frames_cut &+= UInt32(truncatingIfNeeded: excess)
    let left = count - excess
    let unneeded = listed[excess].words
    for index in unneeded..<listed[count - 1].words {
      let (address, value) = (allocs_words_address(words, UInt64(index)), allocs_words_value(words, UInt64(index)))
      allocs_words_put(words, UInt64(index - unneeded), address, value)
    }
    // The frames themselves may have been evicted; the trie knows their program counters.
    let nodes = StackNodes.all(header)
    var parent = CutFrames.rounded(thread.pointee.frames_cut)
    for index in 0..<left {
      listed[index] = listed[index + excess]
      listed[index].words -= unneeded
      let old = nodes[Int(listed[index].node)]
      let flags = old.flags & ALLOCS_NODE_INTERRUPTED.rawValue | (index == 0 ? ALLOCS_NODE_DEPTH_LIMIT.rawValue : 0)
      parent = StackNodes.child(thread, shared, header, parent, old.pc, flags)
      guard parent != 0 else { return false }
      listed[index].node = parent
      let frame = frames + Int(listed[index].frame)
      if Int(frame.pointee.list_index) == index + excess {
        frame.pointee.list_index = UInt32(truncatingIfNeeded: index)
      }
    }
    thread.pointee.frame_count = UInt32(truncatingIfNeeded: left)
    return true
  }
}
