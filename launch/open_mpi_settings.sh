#!/usr/bin/env bash
# How a GPU bundle (launch/gpu_bundle.sh) uses the Open MPI in it; sourced. Ranks only find each other by it, and agree: tensors
# travel by NCCL. Bytes go through shared memory on one host, by TCP between hosts that srun started, and never straight
# from another process's memory, which containers forbid. Ranks are started by mpirun itself, without ssh or a scheduler.
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMPI_MCA_coll=^monitoring OMPI_MCA_osc=^monitoring,ucx
export OMPI_MCA_plm=isolated OMPI_MCA_ras=^slurm,gridengine,simulator OMPI_MCA_ess_singleton_isolated=1
export OMPI_MCA_mca_base_param_files=/dev/null # a user's own are for another Open MPI
export HOME=${HOME:-/} # PMIx takes it from there, and crashes where a user has neither it nor an entry in /etc/passwd
