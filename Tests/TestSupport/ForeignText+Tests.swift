// SPDX-License-Identifier: Apache-2.0
// Foreign texts in tests, which compare them and look into them, and know where they come from.

import ByteText

extension ForeignText {
  /// The bytes of the text as it came.
  public var utf8: String.UTF8View { unescaped.utf8 }

  /// Whether `part` occurs in the text as it came.
  public func contains(_ part: String) -> Bool { unescaped.contains(part) }
}
