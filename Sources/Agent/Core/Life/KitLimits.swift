// SPDX-License-Identifier: Apache-2.0
// KitLimits: names what an agent that is linked into an executable does not see, where it can tell.
// Such an agent hooks no function at its entry. Each limit is counted, and said if ALLOCS_VERBOSE
// asks for it.

#if ALLOCS_INEXE
  import AgentMachine
  import SharedLayout

  enum KitLimits {
    /// Runs once, before the libraries' constructors.
    static func report() {
      // Operators of C++ that an allocator defines do not call its malloc. In a statically linked
      // executable, they cannot be told from the operators of the C++ library, which do call
      // malloc.
      if !allocs_is_static(), let executable = allocs_first_link_map(), let symbols = DynamicSymbols(executable),
        defines("_Znwm", symbols) || defines("_ZdlPv", symbols)
      {
        Index.count(ALLOCS_COUNTER_ENTRIES_REFUSED)
        say("the executable's own operators new and delete, but for the calls of malloc and free in them")
      }
      if allocs_process().pointee.suballocators != nil {
        Index.count(ALLOCS_COUNTER_DECLARATIONS_REFUSED)
        say("the functions of ALLOCS_SUBALLOC: preload the agent into a program without it for those")
      }
    }

    private static func defines(_ name: StaticString, _ symbols: DynamicSymbols) -> Bool {
      let text = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
      return symbols.symbol(of: text) != nil
    }

    private static func say(_ what: StaticString) {
      var line = Text()
      line.append(" does not see ")
      line.append(what)
      line.sayOnRequest()
    }
  }
#endif
