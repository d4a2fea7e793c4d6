// ThreadStack: where a thread's stack lies, without a call of libc's. pthread_getattr_np takes the
// thread's lock, under which the thread may have called malloc to get here.
//
// glibc keeps the bounds in the thread's descriptor, at a place that its versions differ in: start,
// size, and how much of that is a guard, side by side. Of the main thread, the start is 0 and in
// the size stands where the kernel put the stack's end (glibc 2.34 and newer). So the place is
// learned there, once, and counts only if that is found at one place alone. Each other thread's
// words are believed if its thread pointer lies between: libc puts the descriptor into the stack it
// is of.

import AgentMachine
import SharedLayout

enum ThreadStack {
  struct Bounds {
    var low: UInt64
    var high: UInt64
    /// Not just what is mapped around the stack pointer.
    var isKnownWhole = true
  }

  /// Bytes of a descriptor, if libc does not say how many: fewer than any version has.
  private static let leastDescriptorSize = 2048
  private static let greatestDescriptorSize = 1 << 14

  /// Called on the main thread.
  static func learn() {
    let stackEnd = allocs_main_stack_end()
    guard stackEnd != 0, let (start, count) = descriptor else { return }
    var found = 0
    for index in 1..<count - 1 where start[index] == stackEnd && start[index - 1] == 0 {
      guard found == 0 else { return }
      found = index
    }
    guard found != 0 else { return }
    let place = UInt64(UInt(bitPattern: start + (found - 1)))
    allocs_process().pointee.stack_offset = Int64(bitPattern: place &- allocs_thread_pointer())
  }

  /// The calling thread's, which is not the main thread; nil if it is not known.
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

  /// The words of the calling thread's descriptor; nil if it is none of libc's.
  private static var descriptor: (words: UnsafePointer<UInt64>, count: Int)? {
    let pointer = allocs_thread_pointer()
    guard let words = UnsafePointer<UInt64>(bitPattern: UInt(pointer)) else { return nil }
    let size = allocs_process().pointee.descriptor_size
    #if arch(arm64)
      // It lies below the thread pointer, by its size.
      guard size != 0 else { return nil }
      return (words - Int(size) / 8, Int(size) / 8)
    #else
      // tcbhead_t: the thread pointer, twice.
      guard words[0] == pointer, words[2] == pointer else { return nil }
      return (words, (size == 0 ? leastDescriptorSize : Int(size)) / 8)
    #endif
  }

  /// libc tells debuggers how large a descriptor is.
  static func findDescriptorSize() {
    #if !ALLOCS_INEXE
      let name: StaticString = "_thread_db_sizeof_pthread"
      let cString = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
      var module = allocs_first_link_map()
      while let current = module {
        module = current.pointee.l_next
        guard let symbol = DynamicSymbols(current)?.symbol(of: cString),
          let size = UnsafePointer<UInt32>(bitPattern: UInt(symbol.address))?.pointee,
          size >= leastDescriptorSize, size <= greatestDescriptorSize
        else { continue }
        allocs_process().pointee.descriptor_size = size / 8 * 8
        return
      }
    #endif
  }

  /// What is mapped around the stack pointer, where libc's descriptors are not understood; nil if
  /// the thread pointer, and with it the thread's descriptor, lies elsewhere: then it is not the
  /// stack that the thread began with.
  private static var mapped: Bounds? {
    guard let mapping = Process.mapping(of: allocs_stack_address()), allocs_thread_pointer() >= mapping.low,
      allocs_thread_pointer() < mapping.high
    else { return nil }
    return Bounds(low: mapping.low, high: allocs_thread_pointer(), isKnownWhole: false)
  }
}
