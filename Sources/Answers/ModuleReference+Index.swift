// From a module as the index has it to what its file is found by.

import IndexReader
import Symbols

extension ModuleReference {
  /// `segment`: of the process that had it loaded, and may still show its files.
  package init(_ module: Module, in segment: borrowing Segment) {
    self.init(module, process: Process(of: segment))
  }

  /// `process`: that may still show its files; nil for none.
  package init(_ module: Module, process: Process?) {
    self.init(
      path: module.path, buildID: module.buildID, start: module.start, end: module.end, bias: module.bias,
      file: module.file, notedNanoseconds: module.notedNanoseconds,
      isDeleted: module.isDeleted, isMain: module.isMain, process: process)
  }
}

extension ModuleReference.Process {
  init(of segment: borrowing Segment) {
    self.init(id: segment.processID, startTime: segment.startTimeHere, ownerID: segment.ownerID)
  }
}
