// SPDX-License-Identifier: Apache-2.0
// Commands that run as another user. Only root may do that.

package enum OtherUsers {
  /// The user and the group "nobody": an id that owns nothing.
  package static let nobodyID: UInt32 = 65_534

  /// The words before a command that is to run as the user and the group of this name or number, in no other group.
  package static func command(as user: String, group: String? = nil) -> [String] {
    ["setpriv", "--reuid", user, "--regid", group ?? user, "--clear-groups", "--"]
  }

  /// The words before a command that is to run as nobody.
  package static let nobody = command(as: "\(nobodyID)")
}
