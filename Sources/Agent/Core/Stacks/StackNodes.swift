// SPDX-License-Identifier: Apache-2.0
// StackNodes: the trie of call stacks in the segment. A node is one frame: the return address of a
// call, and as its parent the node of the caller's frame. So a node's id stands for the whole stack
// from that frame to the outermost one, and stacks with equal outer frames have those nodes in
// common.
//
// Each thread keeps a cache of the nodes that it has looked up (`child`). A node that is in no
// cache is found in, or added to, the table that all threads have in common (`node`;
// InternTable.swift).

import AgentMachine
import SharedLayout

enum StackNodes {
  typealias Shared = UnsafeMutablePointer<allocs_shared>
  typealias Header = UnsafeMutablePointer<allocs_header>

  /// The node of the call that returns to `pc`, below the node `parent`, from the thread's cache if
  /// it is there; 0 if it cannot be recorded.
  @inline(__always)
  static func child(
    _ thread: Thread, _ shared: Shared, _ header: Header, _ parent: UInt32, _ pc: UInt64, _ flags: UInt32
  ) -> UInt32 {
    cached(thread, parent, pc, flags) { node(shared, header, parent: parent, pc: pc, flags: flags) }
  }

  /// The node of the thread's cache; if it is not there, the node that `find` gives.
  @inline(__always)
  private static func cached(
    _ thread: Thread, _ parent: UInt32, _ pc: UInt64, _ flags: UInt32, _ find: () -> UInt32
  ) -> UInt32 {
    // Few frames have flags. The key has them in its upper bits, where no address has bits.
    let key = pc | UInt64(flags) << 56
    let index = Int(((pc &+ UInt64(parent) << 32) &* 0x9E37_79B9_7F4A_7C15) >> UInt64(ALLOCS_CHILD_SHIFT))
    let cached = allocs_children(thread) + index
    if cached.pointee.pc == key, cached.pointee.parent == parent { return cached.pointee.node }
    let node = find()
    if node != 0 { cached.pointee = allocs_child(pc: key, parent: parent, node: node) }
    return node
  }

  /// As `child`, for a frame with more frames further in: `count` of them, whose program counters,
  /// as `flags` takes them, `inner` gives; number 0 is the next one. If the node is new, `made`
  /// nodes for the first of these frames have the ids that follow its own.
  @inline(__always)
  static func child(
    _ thread: Thread, _ shared: Shared, _ header: Header, _ parent: UInt32, _ pc: UInt64, _ flags: UInt32,
    before count: Int, made: inout Int, _ inner: (Int) -> UInt64
  ) -> UInt32 {
    cached(thread, parent, pc, flags) {
      guard shared.pointee.modules_unloaded == 0, !OwnFrames.isOwn(pc) else {
        return node(shared, header, parent: parent, pc: pc, flags: flags)
      }
      return withUnsafeMutablePointer(to: &shared.pointee.nodes) { state in
        chain(
          InternTable(state, header, ALLOCS_SECTION_NODES), shared, header, parent: parent, pc: pc, flags: flags,
          before: count, made: &made, inner)
      }
    }
  }

  /// The node with these fields. If it is new, so are the nodes of the frames further in: they are
  /// made with it, up to the first frame of the agent, which has none.
  @inline(__always)
  private static func chain(
    _ table: InternTable<allocs_node>, _ shared: Shared, _ header: Header, parent: UInt32, pc: UInt64, flags: UInt32,
    before count: Int, made: inout Int, _ inner: (Int) -> UInt64
  ) -> UInt32 {
    let nodes = table.entries
    var first: UInt32 = 0
    var following = 0
    let node = table.id(
      owner: parent, tag: tag(pc, flags), hash: hash(pc, parent, flags),
      matches: { id in
        nodes[Int(id)].pc == pc && nodes[Int(id)].parent == parent && nodes[Int(id)].flags == flags
      },
      create: {
        note(shared, header, pc, flags)
        while following < count {
          let pc = inner(following)
          let plain = pc & ~Registers.interrupted
          if OwnFrames.isOwn(plain) { break }
          note(shared, header, plain, Self.flags(pc, isOutermost: false, 0))
          following += 1
        }
        let ids = UInt64(1 + following)
        first = table.append(ids) { id in
          nodes[id] = allocs_node(pc: pc, parent: parent, flags: flags)
          for index in 0..<following {
            let pc = inner(index)
            nodes[id + 1 + index] = allocs_node(
              pc: pc & ~Registers.interrupted, parent: UInt32(truncatingIfNeeded: id + index),
              flags: Self.flags(pc, isOutermost: false, 0))
          }
        }
        guard first != 0 else { return 0 }
        let isChained = table.chain(first, UInt32(truncatingIfNeeded: ids)) { index in
          let pc = inner(index - 1)
          return tag(pc & ~Registers.interrupted, Self.flags(pc, isOutermost: false, 0))
        }
        return isChained ? first : 0
      })
    made = node != 0 && node == first ? following : 0
    return node
  }

  /// Notes the module of a call.
  @inline(__always)
  private static func note(_ shared: Shared, _ header: Header, _ pc: UInt64, _ flags: UInt32) {
    // A call lies before the address that it returns to.
    Modules.note(shared, header, address: flags & ALLOCS_NODE_INTERRUPTED.rawValue == 0 ? pc &- 1 : pc)
  }

  @inline(__always)
  private static func hash(_ pc: UInt64, _ parent: UInt32, _ flags: UInt32) -> UInt64 {
    let mixed = UInt64(flags >> ALLOCS_NODE_MODULE_SHIFT) &* 0x9E37_79B9_7F4A_7C15
    return InternTable<allocs_node>.hash(pc ^ UInt64(parent) << 40 ^ UInt64(flags) << 60 ^ mixed)
  }

  /// The tag of a node in the list of its parent.
  @inline(__always)
  private static func tag(_ pc: UInt64, _ flags: UInt32) -> UInt32 {
    InternTable<allocs_node>.tag(pc ^ UInt64(flags) << 48)
  }

  /// The node of the call that returns to `pc`, below the node `parent`; 0 if it cannot be
  /// recorded.
  static func node(_ shared: Shared, _ header: Header, parent: UInt32, pc: UInt64, flags: UInt32) -> UInt32 {
    // A frame of the agent is no frame of the program: the frame that called the agent stands for
    // it.
    if OwnFrames.isOwn(pc), parent != 0 { return parent }
    // A call lies before the address that it returns to.
    let address = flags & ALLOCS_NODE_INTERRUPTED.rawValue == 0 ? pc &- 1 : pc
    guard shared.pointee.modules_unloaded == 0 else {
      let module = Modules.note(shared, header, address: address)
      return node(
        shared, header, parent: parent, pc: pc, flags: flags | module << ALLOCS_NODE_MODULE_SHIFT, address: address,
        from: Modules.firstNode(header, ofModule: module))
    }
    return node(shared, header, parent: parent, pc: pc, flags: flags, address: address, from: 0)
  }

  /// The node with these fields, `first` or a later one.
  @inline(__always)
  private static func node(
    _ shared: Shared, _ header: Header, parent: UInt32, pc: UInt64, flags: UInt32, address: UInt64,
    from first: UInt32
  ) -> UInt32 {
    return withUnsafeMutablePointer(to: &shared.pointee.nodes) { state in
      let table = InternTable<allocs_node>(state, header, ALLOCS_SECTION_NODES)
      let nodes = table.entries
      return table.id(
        // Where frames were cut off, `parent` is their number.
        owner: flags & ALLOCS_NODE_DEPTH_LIMIT.rawValue == 0 ? parent : nil, tag: tag(pc, flags),
        hash: hash(pc, parent, flags),
        matches: { id in
          nodes[Int(id)].pc == pc && nodes[Int(id)].parent == parent && nodes[Int(id)].flags == flags && id >= first
        },
        create: {
          if flags >> ALLOCS_NODE_MODULE_SHIFT == 0 { Modules.note(shared, header, address: address) }
          return table.append { id in
            nodes[id].pc = pc
            nodes[id].parent = parent
            nodes[id].flags = flags
          }
        })
    }
  }

  /// The flags of the node of a frame with `pc`, which may have the bit `Registers.interrupted`.
  /// `end` is what the outermost node says of the stack's end.
  @inline(__always)
  static func flags(_ pc: UInt64, isOutermost: Bool, _ end: UInt32) -> UInt32 {
    (isOutermost ? end : 0) | (pc & Registers.interrupted == 0 ? 0 : ALLOCS_NODE_INTERRUPTED.rawValue)
  }

  /// All nodes, by their ids.
  @inline(__always)
  static func all(_ header: Header) -> UnsafeMutablePointer<allocs_node> {
    Segment.start(header, ALLOCS_SECTION_NODES).assumingMemoryBound(to: allocs_node.self)
  }
}
