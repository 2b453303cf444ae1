# Decides whether the CUDA backend (src/**/*.cu) is built: sets HAX_WITH_CUDA, HAX_CUDA_SOURCES and, unless given,
# one architecture.

if(NOT HAX_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "HAX_CUDA: expected AUTO, ON or OFF, got '${HAX_CUDA}'")
endif()

file(GLOB_RECURSE HAX_CUDA_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/*.cu")
if(HAX_CUDA STREQUAL "ON" AND NOT HAX_CUDA_SOURCES)
  message(FATAL_ERROR "HAX_CUDA=ON, but hax ${PROJECT_VERSION} has no CUDA sources in src/; use AUTO or OFF.")
endif()

set(HAX_WITH_CUDA OFF)
if(HAX_CUDA_SOURCES AND NOT HAX_CUDA STREQUAL "OFF")
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(HAX_NVCC nvcc PATHS /usr/local/cuda/bin)
    mark_as_advanced(HAX_NVCC)
    if(HAX_NVCC)
      set(ENV{CUDACXX} "${HAX_NVCC}")
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(HAX_WITH_CUDA ON)
  elseif(HAX_CUDA STREQUAL "ON")
    message(FATAL_ERROR
      "HAX_CUDA=ON, but no working CUDA compiler was found on PATH, in CUDACXX or in /usr/local/cuda/bin. "
      "Install the CUDA toolkit, set CMAKE_CUDA_COMPILER, or use HAX_CUDA=OFF.")
  endif()
endif()

if(HAX_WITH_CUDA)
  if(NOT CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
    # One architecture keeps a developer's build short: that of the first GPU here, else Hopper.
    execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE _hax_gpus RESULT_VARIABLE _hax_no_gpu ERROR_QUIET)
    if(_hax_no_gpu EQUAL 0 AND _hax_gpus MATCHES "^([0-9]+)\\.([0-9]+)")
      set(_hax_arch "${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
    else()
      set(_hax_arch 90)
    endif()
    if(_hax_arch EQUAL 90)
      set(_hax_arch 90a)
    endif()
    set(CMAKE_CUDA_ARCHITECTURES "${_hax_arch}-real" CACHE STRING "CUDA architectures")
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "hax: CUDA backend on, ${CMAKE_CUDA_COMPILER}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "hax: CUDA backend off (HAX_CUDA=${HAX_CUDA})")
endif()
