#pragma once

// Faults of files, for tests: a library that stands before libc's calls that change files. Linked, or preloaded
// (LD_PRELOAD) with faults in $UPCYCLE_FAULT, one a line. A fault is words, the path last:
//
//   rank=1             only in the process of this rank ($OMPI_COMM_WORLD_RANK, 0 without); default: in every one
//   operation=write    create (open for writing), open (for reading; folders too), write, fsync, close, rename, unlink,
//                      truncate, mkdir; change: any of them but open and close
//   call=3             from the third such call on; default 1
//   times=always       default once
//   fault=ENOSPC       the call fails so, doing nothing: ENOSPC, EIO, EACCES, EDQUOT, EROFS;
//         kill_before, kill_after, kill_half   the process is killed (SIGKILL) beside the call, or with half the bytes
//         written; kill_later:MICROSECONDS     or that long after it. none: calls are only counted.
//   log=FILE           a line for each such call: rank, operation, path
//   path=PREFIX        calls for files whose path begins so
//
// While a fault is armed nothing is really synced: a killed process needs no disk, and disks are slow.
// What libc does inside itself (stdio's writes) is not seen.
extern "C" {
void upcycle_arm_fault(const char* words);  // of all lines; counts from 0 again; "": none
int upcycle_faults_done(void);              // since it was armed
int upcycle_fault_calls(void);              // calls that matched since
}
