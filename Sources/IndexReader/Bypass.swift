// SPDX-License-Identifier: Apache-2.0
// Functions that allocate or free, and that the agent could not hook (allocs_bypass.h).

import ByteText
import SharedLayout

/// A function, or all functions of an allocator, whose calls the agent does not see.
public struct Bypass: Hashable, Sendable {
  /// The function's name in the symbol table; nil: all functions of the allocator.
  public var function: ForeignText?
  /// The path of the module that has the function; nil: the executable.
  public var module: ForeignText?
  /// Why it could not be hooked, in words that go on behind "of MODULE: ".
  public var reason: String

  /// A bypass of these parts.
  public init(function: ForeignText?, module: ForeignText?, reason: String) {
    self.function = function
    self.module = module
    self.reason = reason
  }
}

extension Segment {
  /// The functions that the agent could not hook, in the order in which it met them. Entries that
  /// contradict themselves are left out. Any thread may ask.
  public var bypasses: [Bypass] {
    read(ALLOCS_SECTION_BYPASSES) { index in
      var entry = allocs_bypass()
      copyWords(of: self.entry(index, of: ALLOCS_SECTION_BYPASSES, as: allocs_bypass.self), into: &entry)
      guard let function = path(at: entry.function, size: entry.function_size),
        let module = path(at: entry.module, size: entry.module_size),
        entry.reason != ALLOCS_BYPASS_NONE.rawValue
      else { return nil }
      let reason = allocs_bypass_reason_text(entry.reason).map { String(cString: $0) }
      return Bypass(
        function: function.isEmpty ? nil : function, module: module.isEmpty ? nil : module,
        reason: reason ?? "for a reason that only a later version knows (\(entry.reason))")
    }
  }
}
