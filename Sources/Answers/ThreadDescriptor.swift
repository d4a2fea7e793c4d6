// Threads as libc describes them, at their thread pointers: for those that have never allocated, which the index does
// not know.
//
// libc puts a thread's description at the upper end of the stack that it maps for it, with the thread-local variables
// below. It says itself where it is (twice, x86-64's tcbhead_t) and whose it is (struct pthread's tid, at the same
// place in all versions since 2.4). What does not agree in all three is none.

/// Where a thread has its description, and which one it is.
struct ThreadDescriptor: Hashable {
  /// Bytes from the thread pointer on that belong to it.
  static let size: UInt64 = 2304

  var pointer: UInt64
  var id: UInt32
}

extension Surroundings {
  /// That of a thread whose stack ends where the mapping at `index` does; nil if there is none, or the memory may not
  /// be read.
  func threadDescriptor(inMapping index: Int) -> ThreadDescriptor? {
    guard let mapping = maps?.mappings[index], mapping.isAnonymous, mapping.permissions.hasPrefix("rw") else {
      return nil
    }
    // Above the description there is next to nothing.
    let start = max(mapping.start, mapping.end - min(mapping.end, 64 << 10))
    let alignment = 64 / 8
    let (otherSelf, threadID) = (2, 90)  // words
    guard let words = directory?.words(at: start, count: Int((mapping.end - start) / 8)), words.count > threadID,
      let ids = try? directory?.threadIDs()
    else { return nil }
    for place in stride(from: (words.count - threadID - 1) / alignment * alignment, through: 0, by: -alignment) {
      let pointer = start + UInt64(place) * 8
      guard words[place] == pointer, words[place + otherSelf] == pointer else { continue }
      let id = UInt32(truncatingIfNeeded: words[place + threadID])
      if ids.contains(id) { return ThreadDescriptor(pointer: pointer, id: id) }
    }
    return nil
  }
}
