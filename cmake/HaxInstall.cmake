# make install: headers, both libraries, the CMake package and the pkg-config file.
include(CMakePackageConfigHelpers)

set(_hax_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/hax")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/hax" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.h")
install(TARGETS hax EXPORT haxTargets)
install(TARGETS hax_static EXPORT haxStaticTargets)
install(EXPORT haxTargets NAMESPACE hax:: DESTINATION "${_hax_package_dir}")
install(EXPORT haxStaticTargets NAMESPACE hax:: DESTINATION "${_hax_package_dir}")

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/haxConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/generated/haxConfig.cmake" INSTALL_DESTINATION "${_hax_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/generated/haxConfigVersion.cmake"
  COMPATIBILITY SameMajorVersion)
install(FILES "${PROJECT_BINARY_DIR}/generated/haxConfig.cmake"
              "${PROJECT_BINARY_DIR}/generated/haxConfigVersion.cmake"
        DESTINATION "${_hax_package_dir}")

# Absolute directories are given to pkg-config as they are, others below its prefix.
foreach(dir LIBDIR INCLUDEDIR)
  set(HAX_PC_${dir} "${CMAKE_INSTALL_${dir}}")
  cmake_path(IS_ABSOLUTE HAX_PC_${dir} _hax_absolute)
  if(NOT _hax_absolute)
    set(HAX_PC_${dir} "\${prefix}/${CMAKE_INSTALL_${dir}}")
  endif()
endforeach()
# The prefix is found from hax.pc's own place, so that an installed tree can be moved.
file(RELATIVE_PATH HAX_PC_PREFIX "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
list(JOIN OpenMP_CXX_FLAGS " " HAX_PC_PRIVATE_LIBS)
string(APPEND HAX_PC_PRIVATE_LIBS " -lstdc++ -lm")
if(HAX_WITH_CUDA)
  string(APPEND HAX_PC_PRIVATE_LIBS " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt -lpthread")
endif()
configure_file("${PROJECT_SOURCE_DIR}/cmake/hax.pc.in" "${PROJECT_BINARY_DIR}/generated/hax.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/generated/hax.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
