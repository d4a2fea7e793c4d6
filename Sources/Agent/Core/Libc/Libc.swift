// SPDX-License-Identifier: Apache-2.0
// Libc: the names and numbers of glibc that the agent goes by. With the other files of this folder,
// it is what another C library would need its own version of; docs/porting.md tells which questions
// each file answers. Files outside of this folder only ask.
//
//   C/Libc.c            the first environment, fork handlers, thread-specific keys, the clock
//   C/DynamicLinker.c   which modules there are, and which of them an address is in
//   ThreadStack.swift   where a thread's stack lies, by libc's description of the thread
//   Libc.swift          names of libc's own, and how often it runs destructors
//
// The questions that C code answers are declared in Machine/include/allocs_libc.h.

import AgentMachine

enum Libc {
  /// How many times libc calls the destructors of a thread that ends, as long as one of them sets a
  /// value again (PTHREAD_DESTRUCTOR_ITERATIONS).
  static let destructorRounds: UInt32 = 4

  #if !ALLOCS_INEXE
    /// The number that tells debuggers how large libc's description of a thread is.
    static var sizeOfDescription: StaticString { "_thread_db_sizeof_pthread" }
  #endif

  /// Whether a module is the C library, and so its malloc is glibc's, whose blocks lie at least 32
  /// bytes apart. `__libc_malloc` would not tell: other allocators define that name, too.
  static func isLibrary(_ symbols: DynamicSymbols) -> Bool {
    let mark: StaticString = "gnu_get_libc_version"
    let name = UnsafeRawPointer(mark.utf8Start).assumingMemoryBound(to: CChar.self)
    return symbols.symbol(of: name)?.type == DynamicSymbols.function
  }

  // MARK: names of the malloc family

  private static var ownPrefix: StaticString { "__libc_" }
  /// libc's own names of two functions, which a program calls to reach libc past other allocators.
  static var malloc: StaticString { "__libc_malloc" }
  static var free: StaticString { "__libc_free" }

  /// The names under which the C library defines a function of the malloc family: the function's
  /// own name, the name with libc's prefix, and for free an old name.
  static func forEachName(of function: UnsafePointer<CChar>, _ body: (UnsafePointer<CChar>) -> Void) {
    body(function)
    var name = Text()
    name.append(ownPrefix)
    name.append(cString: function)
    name.withCString(body)
    var free = Text()
    free.append("free")
    if free.withCString({ StaticSymbols.isEqual($0, function) }) {
      var old = Text()
      old.append("cfree")
      old.withCString(body)
    }
  }

  /// Whether a name has libc's own prefix, as `__libc_malloc` does.
  static func isOwn(_ name: UnsafePointer<CChar>) -> Bool {
    for index in 0..<ownPrefix.utf8CodeUnitCount
    where UInt8(bitPattern: name[index]) != ownPrefix.utf8Start[index] {
      return false
    }
    return true
  }
}
