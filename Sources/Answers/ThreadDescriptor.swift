// SPDX-License-Identifier: Apache-2.0
// libc's descriptions of threads, at their thread pointers. They tell of threads that have never allocated, which the
// index does not have.
//
// libc puts a thread's description at the upper end of the stack that it maps for the thread, with the thread-local
// variables below. The description holds its own address (twice, x86-64's tcbhead_t) and the thread's id (struct
// pthread's tid, at the same offset in all versions since 2.4). Memory that does not agree in all three is no
// description.

/// The address of a thread's description, and the thread's id.
struct ThreadDescriptor: Hashable {
  /// Bytes of the description, from the thread pointer on.
  static let size: UInt64 = 2304

  var pointer: UInt64
  var id: UInt32
}

extension Surroundings {
  /// The description of the thread whose stack ends where the mapping at `index` does; nil if there is none, or the
  /// memory may not be read.
  func threadDescriptor(inMapping index: Int) -> ThreadDescriptor? {
    guard let mapping = maps?.mappings[index], mapping.isAnonymous, mapping.permissions.hasPrefix("rw") else {
      return nil
    }
    // Hardly anything lies above the description.
    let start = max(mapping.start, mapping.end &- min(mapping.end, 64 << 10))
    let alignment = 64 / 8
    let (otherSelf, threadID) = (2, 90)  // words
    guard let words = directory?.words(at: start, count: Int(truncatingIfNeeded: (mapping.end &- start) / 8)),
      words.count > threadID
    else { return nil }
    // bounded: places are indices of 8,192 words at most, of which threadID are left behind each
    for place in stride(from: (words.count - threadID - 1) / alignment * alignment, through: 0, by: -alignment) {
      let pointer = start &+ UInt64(truncatingIfNeeded: place) &* 8
      guard words[place] == pointer, words[place + otherSelf] == pointer else { continue }
      let id = UInt32(truncatingIfNeeded: words[place + threadID])
      if threadIDs.contains(id) { return ThreadDescriptor(pointer: pointer, id: id) }
    }
    return nil
  }
}
