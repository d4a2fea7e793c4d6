// SPDX-License-Identifier: Apache-2.0
// Stacks in answers, rendered once and kept.

import Provenance

extension StackNaming {
  /// Appends the fields of an answer that come from the stack that ends in `node`, in a record with `ticks`; nothing if
  /// the stack is empty.
  func appendJSON(ofNode node: UInt32, at ticks: UInt32, to writer: inout ByteWriter) {
    let json = json(ofNode: node, at: ticks) { stack in
      var part = ByteWriter(capacity: 4096)
      part.append(stack: stack)
      return part.take()
    }
    if let json { writer.append(bytes: json) }
  }
}
