// SPDX-License-Identifier: Apache-2.0
// ThreadStack: where a thread's stack lies, without a call of libc. pthread_getattr_np takes the
// thread's lock, under which the thread may have called malloc to get here.
//
// glibc keeps the bounds of a thread's stack in its description of the thread (struct pthread,
// called the descriptor), at an offset that differs between its versions: the start, the size, and
// the size of the guard pages within, side by side. For the main thread, the start is 0, and the
// size is the address of the stack's end, as the kernel set it (glibc 2.34 and newer). So the
// offset is learned from the main thread's descriptor, once, and it counts only if these two words
// are found at one offset alone. The words of any other thread are believed if the thread pointer
// lies between the bounds that they give: libc puts the descriptor into the stack of its thread.

import AgentMachine
import SharedLayout

enum ThreadStack {
  struct Bounds {
    var low: UInt64
    var high: UInt64
    /// Whether these are the bounds of the whole stack; else they bound only the memory that is
    /// mapped around the stack pointer.
    var isKnownWhole = true
  }

  /// Bytes of a descriptor, if libc does not say how many: fewer than in any version.
  private static let leastDescriptorSize = 2048
  private static let greatestDescriptorSize = 1 << 14

  /// Learns the offset. Called on the main thread.
  static func learn() {
    let stackEnd = allocs_main_stack_end()
    guard stackEnd != 0, let (start, count) = descriptor else { return }
    var found = 0
    for index in 1..<count - 1 where start[index] == stackEnd && start[index - 1] == 0 {
      guard found == 0 else { return }
      found = index
    }
    guard found != 0 else { return }
    let address = UInt64(UInt(bitPattern: start + (found - 1)))
    allocs_process().pointee.stack_offset = Int64(bitPattern: address &- allocs_thread_pointer())
  }

  /// The bounds of the calling thread's stack; nil if they are not known. Not for the main thread.
  static var ofCaller: Bounds? {
    let offset = allocs_process().pointee.stack_offset
    guard offset != 0 else { return mapped }
    guard descriptor != nil else { return nil }
    let pointer = allocs_thread_pointer()
    let words = UnsafePointer<UInt64>(bitPattern: UInt(pointer &+ UInt64(bitPattern: offset))).unsafelyUnwrapped
    let (start, size, guardSize) = (words[0], words[1], words[2])
    guard start != 0, pointer > start, pointer - start < size, guardSize & (UInt64(ALLOCS_PAGE_SIZE) - 1) == 0,
      guardSize < pointer - start, start &+ size > start
    else { return nil }
    return Bounds(low: start + guardSize, high: start + size)
  }

  /// The words of the calling thread's descriptor; nil if libc has none at the thread pointer.
  private static var descriptor: (words: UnsafePointer<UInt64>, count: Int)? {
    let pointer = allocs_thread_pointer()
    guard let words = UnsafePointer<UInt64>(bitPattern: UInt(pointer)) else { return nil }
    let size = allocs_process().pointee.descriptor_size
    #if arch(arm64)
      // The descriptor lies right below the thread pointer.
      guard size != 0 else { return nil }
      return (words - Int(size) / 8, Int(size) / 8)
    #else
      // The descriptor begins at the thread pointer with a tcbhead_t, which has the thread pointer
      // twice.
      guard words[0] == pointer, words[2] == pointer else { return nil }
      return (words, (size == 0 ? leastDescriptorSize : Int(size)) / 8)
    #endif
  }

  /// Looks for the number by which libc tells debuggers how large a descriptor is.
  static func findDescriptorSize() {
    #if !ALLOCS_INEXE
      let name = UnsafeRawPointer(Libc.sizeOfDescription.utf8Start).assumingMemoryBound(to: CChar.self)
      var module = allocs_first_link_map()
      while let current = module {
        module = current.pointee.l_next
        guard let symbol = DynamicSymbols(current)?.symbol(of: name),
          let size = UnsafePointer<UInt32>(bitPattern: UInt(symbol.address))?.pointee,
          size >= leastDescriptorSize, size <= greatestDescriptorSize
        else { continue }
        allocs_process().pointee.descriptor_size = size / 8 * 8
        return
      }
    #endif
  }

  /// The memory that is mapped around the stack pointer, where libc's descriptors are not
  /// understood. nil if the thread pointer, and with it the descriptor, lies outside of that
  /// memory: then the thread is not on the stack that it began with.
  private static var mapped: Bounds? {
    guard let mapping = Process.mapping(of: allocs_stack_address()), allocs_thread_pointer() >= mapping.low,
      allocs_thread_pointer() < mapping.high
    else { return nil }
    return Bounds(low: mapping.low, high: allocs_thread_pointer(), isKnownWhole: false)
  }
}
