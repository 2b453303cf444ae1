# NVTX names ranges for NVIDIA Nsight. It is headers alone, part of the CUDA toolkit, and costs a load and a branch a
# range where no tool looks.

find_path(HAX_NVTX_INCLUDE nvtx3/nvToolsExt.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
mark_as_advanced(HAX_NVTX_INCLUDE)

# hax_use_nvtx(<sources>...): compiles them, of the calling folder's targets, with HAX_WITH_NVTX where it is there.
function(hax_use_nvtx)
  if(HAX_WITH_CUDA AND HAX_NVTX_INCLUDE)
    set_property(SOURCE ${ARGN} APPEND PROPERTY COMPILE_DEFINITIONS HAX_WITH_NVTX=1)
  endif()
endfunction()
