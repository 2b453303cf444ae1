# Language level, warnings and sanitizers: hax_compile_defaults(<target>) applies them to one of our own targets.

string(REPLACE "," ";" _hax_sanitizers "${HAX_SANITIZE}")
list(JOIN _hax_sanitizers "," _hax_sanitizers)
if(_hax_sanitizers)
  set(HAX_SANITIZE_FLAGS "-fsanitize=${_hax_sanitizers}" -fno-sanitize-recover=all -fno-omit-frame-pointer)
endif()

function(hax_compile_defaults target)
  set_target_properties(${target} PROPERTIES
    C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF
    CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:C,CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion>)
  # GCC 12 warns of overlapping copies inside std::string's operator+ (GCC bug 105651).
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>)
  if(HAX_SANITIZE_FLAGS)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:C,CXX>:${HAX_SANITIZE_FLAGS}>)
    target_link_options(${target} PUBLIC $<BUILD_INTERFACE:${HAX_SANITIZE_FLAGS}>)
  endif()
endfunction()
