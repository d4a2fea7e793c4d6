// SPDX-License-Identifier: Apache-2.0
// Directory: where the segment goes, where ALLOCS_DIR doesn't say it (allocs_directories.h).
//
// Each place is opened step by step, by descriptors and through no symbolic link, and looked at
// before anything is made in it: anybody may have put anything under a name in /dev/shm, or mounted
// it there, which is not entered (as readers don't). Nothing is done by a path that another user
// could lead elsewhere.

import AgentMachine
import SharedLayout

enum Directory {
  private typealias Flags = System.OpenFlags
  /// A negated error number: another user may write there, or owns it.
  private static let notPermitted = -13

  /// Opens the directory of a place (enum allocs_place) for the user that the process runs as. A
  /// directory of the user's own that is missing is made where it may be. The descriptor, or a
  /// negated error number.
  static func open(_ place: UInt32) -> Int {
    let user = System.effectiveUserID
    var parentPath = Text()
    parentPath.append(cString: allocs_parent_of_place(place))
    if place == ALLOCS_PLACE_OF_SESSION.rawValue { parentPath.append(UInt64(user)) }
    let parent = parentPath.withCString { System.open($0, Flags.readOnly | Flags.directory | Flags.noFollow) }
    guard parent >= 0 else { return parent }
    defer { System.close(parent) }
    guard let status = System.status(of: parent) else { return notPermitted }
    let isOthers = status.mode & 0o022 != 0
    switch place {
    case ALLOCS_PLACE_OF_ROOT.rawValue:
      guard status.userID == 0, !isOthers else { return System.noEntry }
    case ALLOCS_PLACE_COMMON.rawValue:
      let sticky: UInt32 = 0o1000
      guard status.userID == 0, isOthers else { return System.noEntry }
      guard status.mode & sticky != 0 else { return notPermitted }
    case ALLOCS_PLACE_OF_SESSION.rawValue:
      guard status.userID == user, !isOthers else { return notPermitted }
    default: break
    }
    var name = Text()
    name.append(cString: allocs_name_of_place(place))
    if place == ALLOCS_PLACE_OF_ROOT.rawValue || place == ALLOCS_PLACE_IN_MEMORY.rawValue { name.append(UInt64(user)) }
    return name.withCString { name in
      if place == ALLOCS_PLACE_COMMON.rawValue {
        return System.open(in: parent, name, Flags.readOnly | Flags.directory)
      }
      return own(in: parent, name, user, canBeMade: place != ALLOCS_PLACE_OF_ROOT.rawValue)
    }
  }

  private static func own(
    in parent: Int, _ name: UnsafePointer<CChar>, _ user: UInt32, canBeMade: Bool
  ) -> Int {
    var descriptor = System.openWithin(parent, name, Flags.readOnly | Flags.directory)
    var isNew = false
    if descriptor == System.noEntry, canBeMade {
      isNew = System.makeDirectory(in: parent, name, mode: 0o700) >= 0
      descriptor = System.openWithin(parent, name, Flags.readOnly | Flags.directory)
    }
    guard descriptor >= 0 else { return descriptor }
    guard let status = System.status(of: descriptor), status.userID == user, status.mode & 0o022 == 0 else {
      System.close(descriptor)
      return notPermitted
    }
    // The umask may have taken bits off.
    if isNew, status.mode & 0o700 != 0o700 { _ = System.changeMode(descriptor, 0o700) }
    return descriptor
  }
}
