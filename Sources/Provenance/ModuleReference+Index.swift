// SPDX-License-Identifier: Apache-2.0
// From a module, as the index or a recording has it, to the reference by which the symbolizer finds the module's file.

import IndexReader
import Symbols

extension ModuleReference {
  /// `segment` belongs to the process that had the module loaded. That process may still see the
  /// module's file, in its own view of the file system.
  package init(_ module: Module, in segment: borrowing Segment) {
    self.init(module, process: Process(of: segment))
  }

  /// `process`: a process that may still see the module's file; nil for none.
  package init(_ module: Module, process: Process?) {
    self.init(
      path: module.path, buildID: module.buildID, start: module.start, end: module.end, bias: module.bias,
      file: module.file, notedNanoseconds: module.notedNanoseconds,
      isDeleted: module.isDeleted, isMain: module.isMain, process: process)
  }
}

extension ModuleReference.Process {
  package init(of segment: borrowing Segment) {
    self.init(id: segment.processID, startTime: segment.startTimeHere, ownerID: segment.ownerID)
  }
}
