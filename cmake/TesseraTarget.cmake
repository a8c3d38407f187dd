# tessera_library(NAME SOURCES ... LINK ... [TORCH])
# One folder = one target = one namespace. TORCH: the folder uses LibTorch and its shared precompiled header.
function(tessera_library name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC tessera_options ${ARG_LINK})
  if(ARG_TORCH)
    tessera_use_torch(${name})
  endif()
endfunction()

# Links LibTorch and reuses the one precompiled torch header.
function(tessera_use_torch name)
  target_link_libraries(${name} PUBLIC tessera_torch)
  target_precompile_headers(${name} REUSE_FROM tessera_pch)
endfunction()
