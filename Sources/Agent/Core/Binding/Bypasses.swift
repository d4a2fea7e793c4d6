// SPDX-License-Identifier: Apache-2.0
// Bypasses: notes in the segment which functions that allocate or free could not be hooked, and why
// (allocs_bypass.h).
//
// Invariants:
// - Each function of each module is noted once, also if a plugin is opened a thousand times.
// - The caller has taken its thread's block, or runs in the agent's constructor; it does not hold
//   the lock.

import AgentMachine
import SharedLayout

enum Bypasses {
  typealias Module = UnsafeMutablePointer<link_map>
  typealias Reason = allocs_bypass_reason

  /// Notes that calls of the function with this name are not seen; if `name` is empty, that no call
  /// of the module's allocator is. `isRefused`: it was not hooked.
  static func note(_ module: Module, _ name: Text, _ reason: Reason, isRefused: Bool = true) {
    if isRefused { Index.count(ALLOCS_COUNTER_ENTRIES_REFUSED) }
    say(module, name, reason)
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return }
    let isNoted = locked(shared) {
      let path = module.pointee.l_name.map { Allocators.Name(cString: $0) } ?? Allocators.Name()
      return name.withCString { add(shared, header, path, Allocators.Name(cString: $0), reason) }
    }
    if !isNoted { Index.count(ALLOCS_COUNTER_BYPASSES_DROPPED) }
  }

  private static func add(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>,
    _ module: Allocators.Name, _ function: Allocators.Name, _ reason: Reason
  ) -> Bool {
    let table = SegmentTable<allocs_bypass>(header, ALLOCS_SECTION_BYPASSES)
    for index in 0..<table.count {
      let entry = table[index].pointee
      if Strings.holds(header, entry.function, Int(entry.function_size), function),
        Strings.holds(header, entry.module, Int(entry.module_size), module)
      {
        return true
      }
    }
    guard let index = table.reserve(),
      let functionPlace = function.start.map({ Strings.add(shared, header, $0, function.size) }) ?? Strings.Extent(),
      let modulePlace = module.start.map({ Strings.add(shared, header, $0, module.size) }) ?? Strings.Extent()
    else { return false }
    table[index].pointee = allocs_bypass(
      function: functionPlace.offset, module: modulePlace.offset, function_size: functionPlace.size,
      module_size: modulePlace.size, reason: reason.rawValue, reserved: 0)
    table.publish(index + 1)
    return true
  }

  private static func say(_ module: Module, _ name: Text, _ reason: Reason) {
    var line = Text()
    line.append(" does not see ")
    if name.count > 0 {
      name.withCString { line.append(cString: $0) }
    } else {
      line.append("the allocator")
    }
    line.append(" of ")
    if let path = module.pointee.l_name, path.pointee != 0 {
      line.append(cString: path)
    } else {
      line.append("the executable")
    }
    line.append(": ")
    if let text = allocs_bypass_reason_text(reason.rawValue) { line.append(cString: text) }
    line.sayOnRequest()
  }
}
