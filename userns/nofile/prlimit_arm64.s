#include "textflag.h"

// func prlimit(old *Limit) (errno uintptr)
TEXT ·prlimit(SB),NOSPLIT,$0-16
	MOVD	$0, R0 // this process
	MOVD	$7, R1 // RLIMIT_NOFILE
	MOVD	$0, R2 // no new limit
	MOVD	old+0(FP), R3
	MOVD	$261, R8 // SYS_prlimit64
	SVC
	MOVD	R0, errno+8(FP)
	RET
