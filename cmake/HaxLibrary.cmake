# hax_objects (everything but the CPU kernels), hax_cpu_<level> (the CPU kernels), and from these hax and hax_static.

file(GLOB_RECURSE _hax_sources CONFIGURE_DEPENDS
     "${PROJECT_SOURCE_DIR}/capi/*.cpp" "${PROJECT_SOURCE_DIR}/src/*.cpp")
set(_hax_host_sources)
set(_hax_cpu_sources)
foreach(source IN LISTS _hax_sources)
  cmake_path(GET source FILENAME name)
  if(name MATCHES "_cpu.*\\.cpp$")
    list(APPEND _hax_cpu_sources "${source}")
  else()
    list(APPEND _hax_host_sources "${source}")
  endif()
endforeach()
if(HAX_WITH_CUDA)
  list(APPEND _hax_host_sources ${HAX_CUDA_SOURCES})
endif()

function(hax_object_library target)
  add_library(${target} OBJECT ${ARGN})
  hax_compile_defaults(${target})
  set_target_properties(${target} PROPERTIES
    POSITION_INDEPENDENT_CODE ON
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
  target_include_directories(${target} PRIVATE
    "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/src"
    "${PROJECT_BINARY_DIR}/generated")
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-fno-math-errno -ffp-contract=fast>)
  target_compile_definitions(${target} PRIVATE
    $<$<BOOL:${HAX_WITH_CUDA}>:HAX_WITH_CUDA=1> $<$<BOOL:${HAX_CUDA_SM90A}>:HAX_CUDA_SM90A=1>)
  target_link_libraries(${target} PRIVATE OpenMP::OpenMP_CXX)
endfunction()

hax_object_library(hax_objects ${_hax_host_sources})
set(_hax_c_functions ${_hax_host_sources})
list(FILTER _hax_c_functions INCLUDE REGEX "/capi/")
hax_use_nvtx(${_hax_c_functions})
if(HAX_WITH_CUDA)
  set_target_properties(hax_objects PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static)
  target_link_libraries(hax_objects PRIVATE CUDA::cudart_static)
endif()

set(_hax_object_files $<TARGET_OBJECTS:hax_objects>)
if(_hax_cpu_sources)
  foreach(level IN LISTS HAX_CPU_LEVEL_NAMES)
    hax_object_library(hax_cpu_${level} ${_hax_cpu_sources})
    # -O3 in every configuration: unoptimised, inline functions of the standard library would be emitted with
    # this level's instructions and could be chosen by the linker for code that runs on any CPU.
    target_compile_options(hax_cpu_${level} PRIVATE ${HAX_CPU_LEVEL_${level}_OPTIONS} -O3)
    target_compile_definitions(hax_cpu_${level} PRIVATE
      HAX_CPU_LEVEL_NAME=${level} HAX_VEC_BYTES=${HAX_CPU_LEVEL_${level}_VEC_BYTES})
    list(APPEND _hax_object_files $<TARGET_OBJECTS:hax_cpu_${level}>)
  endforeach()
endif()

add_library(hax SHARED ${_hax_object_files})
add_library(hax_static STATIC ${_hax_object_files})
add_library(hax::hax ALIAS hax)
add_library(hax::static ALIAS hax_static)
foreach(library hax hax_static)
  set_target_properties(${library} PROPERTIES LINKER_LANGUAGE CXX CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(${library} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  if(HAX_SANITIZE_FLAGS)
    target_link_options(${library} PUBLIC $<BUILD_INTERFACE:${HAX_SANITIZE_FLAGS}>)
  endif()
endforeach()

set(_hax_map "${PROJECT_SOURCE_DIR}/cmake/hax.map")
set_target_properties(hax PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINK_DEPENDS "${_hax_map}")
target_link_options(hax PRIVATE "LINKER:--version-script=${_hax_map}" LINKER:--exclude-libs,ALL)
if(NOT HAX_SANITIZE_FLAGS)
  target_link_options(hax PRIVATE LINKER:--no-undefined)
endif()
target_link_libraries(hax PRIVATE OpenMP::OpenMP_CXX $<$<BOOL:${HAX_WITH_CUDA}>:CUDA::cudart_static>)

set_target_properties(hax_static PROPERTIES OUTPUT_NAME hax EXPORT_NAME static)
target_link_libraries(hax_static
  PRIVATE $<BUILD_INTERFACE:OpenMP::OpenMP_CXX> $<INSTALL_INTERFACE:hax::openmp>
          $<$<BOOL:${HAX_WITH_CUDA}>:CUDA::cudart_static>)
